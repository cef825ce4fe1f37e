"""All state of one request inside the engine's thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.core.types import FinishReason, SynthesisSummary
from backend.serving.prompts import NO_PROMPT, PromptShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.core.types import AudioChunk, SynthesisRequest
    from backend.serving.playback import PlaybackClock

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


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on its way to sound.

    Attributes:
        request: What was asked for.
        listener: Who hears it.
        max_credit: Chunks the listener may have untaken; then the sequence pauses.
        max_chunk_frames: Largest chunk.
        submitted_at: Clock reading, seconds.
        due_at: While waiting: clock reading by which it should be admitted. Lowest goes first.
        playback: What the listener of a stream still has; None for a whole file.
        prompt: What the prompt is made of.
        num_positions: Positions of it that probably have to be read.
        num_expected: Frames that will probably come.
        deadline_at: Clock reading after which it is given up; moves while the listener pauses it.
        served_at: Clock reading of the last work on it.
        credit: Chunks the listener will still take.
        paused_at: Clock reading at which the credit ran out, or None.
        chunk_frames: Frames of the next chunk: doubling in a stream, the largest otherwise.
        least_frames: A chunk that is sent early, to bridge a gap, has at least so many frames.
        slot: Held while running or draining.
        frames: Frames drawn and not yet given to the codec, each ``[K]``.
        num_in_codec: Frames that the codec has and whose sound is not there yet.
        num_frames: Frames drawn in all.
    """

    request: SynthesisRequest
    listener: Listener
    max_credit: int
    max_chunk_frames: int
    submitted_at: float
    due_at: float
    playback: PlaybackClock | None = None
    prompt: PromptShape = NO_PROMPT
    num_positions: int = 0
    num_expected: int = 0
    deadline_at: float = float("inf")
    served_at: float = 0.0
    status: SequenceStatus = SequenceStatus.WAITING
    credit: int = field(init=False)
    paused_at: float | None = None
    chunk_frames: int = field(init=False)
    least_frames: int = FIRST_CHUNK_FRAMES
    slot: int | None = None
    finish_reason: FinishReason = FinishReason.STOP
    frames: list[NDArray[np.int32]] = field(default_factory=list)
    num_in_codec: int = 0
    num_frames: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    semantic_s: float = 0.0
    codec_s: float = 0.0

    def __post_init__(self) -> None:
        """Start with full credit, and the small chunk of a stream that is not heard yet."""
        self.credit = self.max_credit
        starts_small = self.playback is not None and self.playback.dry_at is None
        self.chunk_frames = FIRST_CHUNK_FRAMES if starts_small else self.max_chunk_frames

    def begin_with(self, num_frames: int) -> None:
        """Make a stream's first chunk larger: a slow machine needs the time it gains by that."""
        if self.playback is not None:
            num_frames = min(num_frames, self.max_chunk_frames)
            self.least_frames = max(self.least_frames, num_frames)
            self.chunk_frames = max(self.chunk_frames, num_frames)

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
    def has_taken_all(self) -> bool:
        """Whether the listener holds no chunk that it has not taken."""
        return self.credit >= self.max_credit

    @property
    def is_done(self) -> bool:
        """Whether everything has been decoded."""
        return self.status is SequenceStatus.DRAINING and not self.num_made

    @property
    def num_made(self) -> int:
        """Frames drawn and not yet heard."""
        return len(self.frames) + self.num_in_codec

    @property
    def held_slot(self) -> int:
        """The slot of a sequence that has one."""
        assert self.slot is not None
        return self.slot

    @property
    def num_left(self) -> int:
        """Frames that are still to be drawn, as far as one can tell."""
        if self.status is SequenceStatus.DRAINING:
            return 0
        return max(1, self.num_expected - self.num_frames)

    def take_chunk(self) -> NDArray[np.int32]:
        """Take the next chunk's codes ``[K, F]``; the one after it may be twice as large."""
        chunk, self.frames = self.frames[: self.chunk_frames], self.frames[self.chunk_frames :]
        self.num_in_codec = len(chunk)
        if self.playback is not None:
            self.chunk_frames = min(2 * len(chunk), self.max_chunk_frames)
        return np.array(chunk, dtype=np.int32).T.copy()

    def grant(self, now: float) -> None:
        """Let the listener take one more chunk; time it left us waiting is not held against us."""
        if self.paused_at is not None:
            self.deadline_at += now - self.paused_at
            self.paused_at = None
        self.credit += 1

    def sent(self, num_frames: int, now: float) -> None:
        """Note that the chunk taken last went to the listener."""
        self.num_in_codec = 0
        if self.playback is not None and self.playback.send(
            num_frames, now, has_taken_all=self.has_taken_all
        ):
            # small pieces did not last: the next early one is larger
            self.least_frames = min(2 * self.least_frames, self.max_chunk_frames)
        self.served_at = now
        self.credit -= 1
        if self.credit <= 0:
            self.paused_at = now

    def summary(self) -> SynthesisSummary:
        """What the sequence cost."""
        playback = self.playback
        return SynthesisSummary(
            finish_reason=self.finish_reason,
            num_frames=self.num_frames,
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
            semantic_s=self.semantic_s,
            codec_s=self.codec_s,
            num_underruns=playback.num_underruns if playback else 0,
            dry_s=playback.dry_s if playback else 0.0,
        )
