"""What the engine does next.

One ``step`` admits at most one waiting sequence, draws one frame for every running one and decodes
every chunk that is due. So a new request delays the others by one prefill, a request is cancelled
within one step, and a listener that does not keep up pauses only itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.core.contract import FrameChunk
from backend.core.errors import GenerationError, TTSError
from backend.core.types import AudioChunk, FinishReason
from backend.serving.sequence import Sequence, SequenceStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.core.contract import Engine, StepResult
    from backend.core.types import SynthesisRequest
    from backend.serving.sequence import Listener

logger = logging.getLogger(__name__)


class Scheduler:
    """Move sequences from waiting to finished. Everything here runs on the engine's thread."""

    def __init__(
        self,
        engine: Engine,
        max_chunk_frames: int,
        listener_credit: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._max_chunk_frames = max_chunk_frames
        self._listener_credit = listener_credit
        self._clock = clock
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    def submit(self, request: SynthesisRequest, listener: Listener) -> None:
        """Put a request at the end of the queue."""
        self._waiting.append(
            Sequence(
                request,
                listener,
                credit=self._listener_credit,
                max_chunk_frames=self._max_chunk_frames,
                submitted_at=self._clock(),
            )
        )

    def grant(self, request_id: str) -> None:
        """Let a sequence's listener take one more chunk."""
        if sequence := self._running.get(request_id):
            sequence.credit += 1

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is; its listener hears nothing more."""
        self._waiting = deque(s for s in self._waiting if s.request.request_id != request_id)
        if sequence := self._running.get(request_id):
            self._retire(sequence)

    def fail_all(self, error: Exception) -> None:
        """End every sequence with ``error``. The engine is not called: it may be what failed."""
        for sequence in [*self._waiting, *self._running.values()]:
            sequence.status = SequenceStatus.FINISHED
            sequence.listener.failed(error)
        self._waiting.clear()
        self._running.clear()

    def step(self) -> bool:
        """Do one round of work.

        Returns:
            Whether there was any; False means that only a new command can change something.
        """
        admitted = self._admit_one()
        stepped = self._decode_step()
        due = [s for s in self._running.values() if s.has_chunk_due]
        self._decode_chunks(due)
        for sequence in [s for s in self._running.values() if s.is_done]:
            self._retire(sequence)
            sequence.listener.finished(sequence.summary())
        return admitted or stepped or bool(due)

    def _admit_one(self) -> bool:
        if not self._waiting or self.num_running >= self._engine.max_slots:
            return False
        sequence = self._waiting.popleft()
        request, started = sequence.request, self._clock()
        sequence.queue_s = started - sequence.submitted_at
        sequence.listener.began()
        with self._failing([sequence]):
            if request.codes is not None:
                sequence.slot = self._engine.open_slot()
                sequence.frames = list(request.codes.T)
                sequence.num_frames = len(sequence.frames)
                sequence.finish_reason = FinishReason.CODES
                sequence.status = SequenceStatus.DRAINING
            else:
                sequence.slot = self._engine.prefill(request.text, request.turns, request.sampling)
                sequence.prefill_s = self._clock() - started
                sequence.status = SequenceStatus.RUNNING
            self._running[request.request_id] = sequence
        return True

    def _decode_step(self) -> bool:
        batch = [s for s in self._running.values() if s.can_step]
        if not batch:
            return False
        started = self._clock()
        with self._failing(batch):
            results = self._engine.decode_step([_slot_of(s) for s in batch])
            share_s = (self._clock() - started) / len(batch)
            for sequence, result in zip(batch, results, strict=True):
                sequence.semantic_s += share_s
                _take_frame(sequence, result)
        return True

    def _decode_chunks(self, due: list[Sequence]) -> None:
        if not due:
            return
        started = self._clock()
        with self._failing(due):
            chunks = [FrameChunk(_slot_of(s), s.take_chunk()) for s in due]
            sounds = self._engine.decode_frames(chunks)
            share_s = (self._clock() - started) / len(due)
            for sequence, chunk, samples in zip(due, chunks, sounds, strict=True):
                sequence.codec_s += share_s
                sequence.credit -= 1
                sequence.listener.audio(AudioChunk(samples, chunk.codes))

    @contextmanager
    def _failing(self, sequences: list[Sequence]) -> Iterator[None]:
        """End ``sequences`` if the work inside fails: the boundary that keeps the loop alive."""
        try:
            yield
        except TTSError as error:
            for sequence in sequences:
                self._fail(sequence, error)
        except Exception as error:
            logger.exception("the engine failed")
            wrapped = GenerationError(f"the engine failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            for sequence in sequences:
                self._fail(sequence, wrapped)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._retire(sequence)
        sequence.listener.failed(error)

    def _retire(self, sequence: Sequence) -> None:
        # released first: if that fails, the sequence is still there to be told about it
        if sequence.slot is not None:
            self._engine.release(sequence.slot)
            sequence.slot = None
        sequence.status = SequenceStatus.FINISHED
        self._running.pop(sequence.request.request_id, None)


def _slot_of(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def _take_frame(sequence: Sequence, result: StepResult) -> None:
    if result.codes is None:
        sequence.finish_reason = FinishReason.LENGTH if result.hit_limit else FinishReason.STOP
        sequence.status = SequenceStatus.DRAINING
    else:
        sequence.frames.append(result.codes)
        sequence.num_frames += 1
