"""What one request has cost so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.core.types import FinishReason
from backend.telemetry.recent import RequestRecord, RequestStatus, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.types import AudioChunk, SynthesisSummary

VOICE_CODES = "voice_codes"
SEMANTIC = "semantic"
PREFIX_KV = "prefix_kv"


class SpeechLedger:
    """Collect the facts about one request while it lives. Confined to the event loop.

    Args:
        request_id: Names the request.
        clock: Seconds that only go forward.

    Attributes:
        voice: Name of the voice, ``"upload"`` for a recording, None for a voice drawn by the seed.
        seed: What fixes the noise.
        format: Name of the output format.
        num_chars: Characters of text.
        num_segments: Stretches the text was cut into.
        num_frames: Frames made so far.
        num_samples: Samples made so far, at ``sample_rate``.
        num_trimmed: Samples of silence that were taken away.
        num_underruns: Times the listener ran dry, by the scheduler's clock.
        sample_rate: Of the engine, in Hz.
        speed: How much faster than the engine's the client's sound is.
        ttfa_s: From the start to the first audio byte, once there is one.
        total_s: From the start to the last byte, once there is one.
        finish_reason: Why the last stretch ended.
        cache_hits: For each cache that was asked, whether it had every answer so far.
        warnings: Things the client should know although it got its speech. ASCII.
        troubles: What went wrong with the speech, in order, whether it was made again or cut.
        peak_vram_bytes: The engine's most device memory so far, where the device tells.
        gpu_percent: Utilization of the card, where there is one.
        status: How the request ended; meaningless before.
        error: Class name of the error that ended it.
    """

    def __init__(self, request_id: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.request_id = request_id
        self._clock = clock
        self._started = clock()
        self._started_at = time.time()
        self.voice: str | None = None
        self.seed: int | None = None
        self.format: str | None = None
        self.is_stream = True
        self.num_chars = 0
        self.num_segments = 0
        self.num_frames = 0
        self.num_samples = 0
        self.num_trimmed = 0
        self.num_underruns = 0
        self.sample_rate: int | None = None
        self.speed = 1.0
        self.ttfa_s: float | None = None
        self.total_s: float | None = None
        self.finish_reason: FinishReason | None = None
        self.stages_s: dict[Stage, float] = {}
        self.cache_hits: dict[str, bool] = {}
        self.warnings: list[str] = []
        self.troubles: list[str] = []
        self.peak_vram_bytes: int | None = None
        self.gpu_percent: int | None = None
        self.status = RequestStatus.OK
        self.error: str | None = None

    def restart_clock(self) -> None:
        """Count from now on: until now nobody had said what to speak."""
        self._started = self._clock()

    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def buffered_s(self) -> float | None:
        """Seconds of sound that the listener of a stream still has; None before the first."""
        if self.ttfa_s is None or self.audio_s is None or not self.is_stream:
            return None
        return max(0.0, self.audio_s - (self.now_s() - self.ttfa_s))

    def add_stage(self, stage: Stage, spent_s: float) -> None:
        """Add time spent in a stage."""
        self.stages_s[stage] = self.stages_s.get(stage, 0.0) + spent_s

    def note_cache(self, cache: str, *, is_hit: bool) -> None:
        """Note whether a cache had an answer; one miss makes the whole a miss."""
        self.cache_hits[cache] = is_hit and self.cache_hits.get(cache, True)

    def note_chunk(self, chunk: AudioChunk) -> None:
        """Note that sound came from the engine."""
        self.num_samples += chunk.samples.size
        self.num_frames += chunk.codes.shape[1]

    def note_summary(self, summary: SynthesisSummary, finish_reason: FinishReason) -> None:
        """Add what the engine says about one stretch.

        Args:
            summary: Of the engine.
            finish_reason: Why the stretch ended when it was made; differs from the summary's when
                it came from the cache.
        """
        self.finish_reason = finish_reason
        self.num_underruns += summary.num_underruns
        self.add_stage(Stage.QUEUE, summary.queue_s)
        self.add_stage(Stage.CODEC, summary.codec_s)
        if summary.finish_reason is not FinishReason.CODES:
            self.add_stage(Stage.PREFILL, summary.prefill_s)
            self.add_stage(Stage.SEMANTIC, summary.semantic_s)

    def note_trouble(self, trouble: str) -> None:
        """Note that speech went wrong and something was done about it."""
        self.troubles.append(trouble)

    def note_first_audio(self) -> None:
        """Note that the first audio byte is there; later calls change nothing."""
        if self.ttfa_s is None:
            self.ttfa_s = self.now_s()

    def end(self, status: RequestStatus, error: str | None = None) -> None:
        """Close the ledger."""
        self.status = status
        self.error = error
        self.total_s = self.now_s()

    @property
    def audio_s(self) -> float | None:
        """Seconds of speech so far, as the client hears them."""
        heard = self.num_samples - self.num_trimmed
        return heard / self.sample_rate / self.speed if self.sample_rate else None

    @property
    def rtf(self) -> float | None:
        """Seconds of work per second of speech, once it has ended; below 1 is faster than real."""
        return self.total_s / self.audio_s if self.total_s is not None and self.audio_s else None

    def record(self) -> RequestRecord:
        """Give what is kept of the request."""
        return RequestRecord(
            request_id=self.request_id,
            status=self.status,
            started_at=self._started_at,
            error=self.error,
            voice=self.voice,
            format=self.format,
            seed=self.seed,
            num_chars=self.num_chars,
            num_frames=self.num_frames,
            finish_reason=self.finish_reason.value if self.finish_reason else None,
            audio_s=self.audio_s,
            total_s=self.total_s,
            num_underruns=self.num_underruns if self.is_stream else None,
            # a whole file has no first sound before its end: it would spoil the figure of streams
            ttfa_s=self.ttfa_s if self.is_stream else None,
            stages_s=dict(self.stages_s),
            cache_hits=dict(self.cache_hits),
            troubles=tuple(self.troubles),
            peak_vram_bytes=self.peak_vram_bytes,
            gpu_percent=self.gpu_percent,
        )
