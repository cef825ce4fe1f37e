"""What a listener still has to play.

Nobody reports it: it follows from what was sent and when. A listener plays without a pause from the
moment the first sound reaches it; the way there takes as long for the first sound as for the rest,
so it cancels out.
"""

from __future__ import annotations


class PlaybackClock:
    """The moment at which one listener has played everything that was sent.

    All times are readings of the scheduler's clock in seconds.

    Args:
        frame_s: How long one frame lasts at the listener.
        now: Reading of the clock.
        buffered_s: Sound that the listener has from an earlier stretch of the same speech.

    Attributes:
        dry_at: When the listener runs dry, or None before the first sound.
        num_underruns: Times it ran dry because nothing had been made.
        dry_s: Seconds of silence that this cost in all.
    """

    __slots__ = ("dry_at", "dry_s", "frame_s", "num_underruns")

    def __init__(self, frame_s: float, now: float = 0.0, buffered_s: float = 0.0) -> None:
        self.frame_s = frame_s
        self.dry_at = now + buffered_s if buffered_s > 0 else None
        self.num_underruns = 0
        self.dry_s = 0.0

    def buffer_s(self, now: float) -> float:
        """Seconds of sound at the listener; negative after it ran dry, 0 before it began."""
        return 0.0 if self.dry_at is None else self.dry_at - now

    def lead_s(self, now: float, num_made: int) -> float:
        """Seconds until it runs dry if ``num_made`` frames that wait for the codec were sent."""
        return self.buffer_s(now) + num_made * self.frame_s

    def send(self, num_frames: int, now: float, *, has_taken_all: bool) -> bool:
        """Note that frames are sent.

        Args:
            num_frames: Frames.
            now: Reading of the clock.
            has_taken_all: Whether the listener had taken everything before. If not, it is late
                itself: no underrun of ours.

        Returns:
            Whether the listener had run dry for want of sound.
        """
        dry_at = now if self.dry_at is None else self.dry_at
        is_underrun = dry_at < now and has_taken_all
        if is_underrun:
            self.num_underruns += 1
            self.dry_s += now - dry_at
        # what was silent is not made up for: playing goes on where it stopped
        self.dry_at = max(dry_at, now) + num_frames * self.frame_s
        return is_underrun
