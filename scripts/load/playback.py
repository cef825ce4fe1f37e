"""What a listener hears: bytes come when they come, sound is played on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

BYTES_PER_SAMPLE = 2
"""Of 16-bit mono, which is what ``pcm`` is."""


@dataclass(slots=True)
class Playback:
    """One stream, played while it arrives.

    Sound starts as soon as ``prebuffer_s`` of it are there. When the buffer runs dry before the
    end, that is an underrun: silence until the next bytes come, and everything after it is late.
    Times are seconds on any one clock.

    Attributes:
        rate_hz: Samples per second.
        prebuffer_s: Sound that is gathered before the first is played; 0 plays at once.
        first_at: When the first sample came, or None.
        started_at: When the first sample was played, or None.
        dry_at: When the buffer runs dry, as far as known; meaningless before ``started_at``.
        audio_s: Sound that came.
        gaps_s: How long each underrun lasted.
    """

    rate_hz: int
    prebuffer_s: float = 0.0
    first_at: float | None = None
    started_at: float | None = None
    dry_at: float = 0.0
    audio_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    _odd_bytes: int = 0

    def feed(self, at: float, num_bytes: int) -> None:
        """Take bytes that came at ``at``; half a sample waits for its other half."""
        num_samples, self._odd_bytes = divmod(num_bytes + self._odd_bytes, BYTES_PER_SAMPLE)
        if not num_samples:
            return
        fresh_s = num_samples / self.rate_hz
        self.audio_s += fresh_s
        if self.first_at is None:
            self.first_at = at
        if self.started_at is None:
            if self.audio_s >= self.prebuffer_s:
                self._start(at)
            return
        if at > self.dry_at:
            self.gaps_s.append(at - self.dry_at)
            self.dry_at = at
        self.dry_at += fresh_s

    def finish(self, at: float) -> None:
        """Note that nothing more comes; a sound shorter than the prebuffer is played now."""
        if self.started_at is None and self.audio_s:
            self._start(at)

    @property
    def underruns(self) -> int:
        """Times the buffer ran dry before the end."""
        return len(self.gaps_s)

    @property
    def gap_s(self) -> float:
        """Silence that should not have been, in all."""
        return sum(self.gaps_s)

    def _start(self, at: float) -> None:
        self.started_at = at
        self.dry_at = at + self.audio_s
