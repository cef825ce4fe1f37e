"""Chunks on their way through the codec: at most one call of the engine's at a time.

Where the engine can, the codec works while the next frames are drawn, and its sound is handed out
as soon as it is there; otherwise it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.contract import FrameChunk, OverlappingEngine
from backend.core.types import AudioChunk
from backend.serving.sequence import SequenceStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import Engine, FramesInWork
    from backend.serving.cost_model import CostModel
    from backend.serving.sequence import Sequence


class CodecWork:
    """The codec's calls and what becomes of their sound. Confined to the engine's thread.

    Args:
        engine: Makes samples.
        cost: Learns what that took.
        clock: Seconds that only go forward.
    """

    def __init__(self, engine: Engine, cost: CostModel, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._cost = cost
        self._clock = clock
        self._call: _Call | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a call was begun and its sound not handed out."""
        return self._call is not None

    @property
    def is_ready(self) -> bool:
        """Whether ``hand_out`` would not wait for a codec that works beside other stages."""
        return self._call is None or self._call.work is None or self._call.work.is_ready

    @property
    def is_beside(self) -> bool:
        """Whether the codec works by itself; else it works in ``hand_out``."""
        return self._call is not None and self._call.work is not None

    @property
    def listening(self) -> list[Sequence]:
        """Whose frames are in work, those left out that have ended meanwhile."""
        sequences = self._call.sequences if self._call is not None else []
        return [s for s in sequences if s.status is not SequenceStatus.FINISHED]

    def begin(self, due: list[Sequence], num_rows: int) -> None:
        """Give a chunk of each to the codec.

        Args:
            due: Who has frames.
            num_rows: Of the steps that may run meanwhile.
        """
        chunks = [FrameChunk(sequence.held_slot, sequence.take_chunk()) for sequence in due]
        engine = self._engine
        work = None
        if isinstance(engine, OverlappingEngine) and engine.decodes_beside(num_rows):
            work = engine.begin_frames(chunks)
        self._call = _Call(due, chunks, work)

    def hand_out(self) -> None:
        """Wait for the sound and give it to those of the listeners that are still there."""
        call, self._call = self._call, None
        if call is None:
            return
        sounds, spent_s = self._finish(call)
        now = self._clock()
        self._cost.codec.observe(sum(chunk.codes.shape[1] for chunk in call.chunks), spent_s)
        for sequence, chunk, samples in zip(call.sequences, call.chunks, sounds, strict=True):
            if sequence.status is not SequenceStatus.FINISHED:
                sequence.codec_s += spent_s / len(call.sequences)
                sequence.sent(chunk.codes.shape[1], now)
                sequence.listener.audio(AudioChunk(samples, chunk.codes))

    def forget(self) -> None:
        """Let go of the call at hand."""
        self._call = None

    def _finish(self, call: _Call) -> tuple[list[NDArray[np.float32]], float]:
        """Give the samples and the seconds that the codec took for them."""
        if call.work is not None:
            return call.work.collect(), call.work.seconds
        started = self._clock()
        sounds = self._engine.decode_frames(call.chunks)
        return sounds, self._clock() - started


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: whose chunks, the chunks, and what was begun if the codec works by itself."""

    sequences: list[Sequence]
    chunks: list[FrameChunk]
    work: FramesInWork | None
