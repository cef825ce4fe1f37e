"""All state of one request inside the engine's thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.core.types import FinishReason, SynthesisSummary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.core.types import AudioChunk, SynthesisRequest

FIRST_CHUNK_FRAMES = 1
"""A stream's first chunk: sound starts as early as the codec allows."""


class SequenceStatus(StrEnum):
    """Where a sequence is. Only the scheduler moves it."""

    WAITING = "waiting"
    RUNNING = "running"
    DRAINING = "draining"
    """No further frames come; what is there is still to be heard."""
    FINISHED = "finished"


class Listener(Protocol):
    """Where a sequence's results go. Called on the engine's thread; must not block."""

    def began(self) -> None:
        """Learn that the engine is about to work on the request."""
        ...

    def audio(self, chunk: AudioChunk) -> None:
        """Take the next samples."""
        ...

    def finished(self, summary: SynthesisSummary) -> None:
        """Take the end."""
        ...

    def failed(self, error: Exception) -> None:
        """Take an end that should not have been."""
        ...


@dataclass(slots=True)
class Sequence:
    """One request on its way to sound.

    Attributes:
        request: What was asked for.
        listener: Who hears it.
        credit: Chunks the listener will still take; at 0 the sequence pauses.
        max_chunk_frames: Largest chunk.
        submitted_at: Clock reading, seconds.
        slot: Held while running or draining.
        frames: Frames drawn and not yet decoded, each ``[K]``.
        num_frames: Frames drawn in all.
    """

    request: SynthesisRequest
    listener: Listener
    credit: int
    max_chunk_frames: int
    submitted_at: float
    status: SequenceStatus = SequenceStatus.WAITING
    slot: int | None = None
    finish_reason: FinishReason = FinishReason.STOP
    frames: list[NDArray[np.int32]] = field(default_factory=list)
    num_frames: int = 0
    num_chunks: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    semantic_s: float = 0.0
    codec_s: float = 0.0

    @property
    def chunk_frames(self) -> int:
        """Frames of the next chunk: 1, 2, 4, ... in a stream, the largest at once otherwise."""
        if not self.request.stream:
            return self.max_chunk_frames
        return min(FIRST_CHUNK_FRAMES << min(self.num_chunks, 16), self.max_chunk_frames)

    @property
    def can_step(self) -> bool:
        """Whether a further frame may be drawn."""
        return self.status is SequenceStatus.RUNNING and self.credit > 0

    @property
    def has_chunk_due(self) -> bool:
        """Whether enough frames wait for the next chunk."""
        if self.credit <= 0 or not self.frames:
            return False
        return self.status is SequenceStatus.DRAINING or len(self.frames) >= self.chunk_frames

    @property
    def is_done(self) -> bool:
        """Whether everything has been decoded."""
        return self.status is SequenceStatus.DRAINING and not self.frames

    def take_chunk(self) -> NDArray[np.int32]:
        """Take the next chunk's codes ``[K, F]``."""
        count = self.chunk_frames
        chunk, self.frames = self.frames[:count], self.frames[count:]
        self.num_chunks += 1
        return np.stack(chunk, axis=1)

    def summary(self) -> SynthesisSummary:
        """What the sequence cost."""
        return SynthesisSummary(
            finish_reason=self.finish_reason,
            num_frames=self.num_frames,
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
            semantic_s=self.semantic_s,
            codec_s=self.codec_s,
        )
