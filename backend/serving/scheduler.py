"""What the engine does next.

One ``step`` admits waiting sequences, draws one frame for each of a batch of running ones and
decodes a batch of chunks. Who that is, a policy decides (``policy.py``); this file carries
it out, learns what it cost and keeps the states. A request is cancelled within one step, and a
listener that does not keep up pauses only itself.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.core.contract import BatchingEngine, TimedEngine
from backend.core.errors import DeadlineExceededError, GenerationError, TTSError
from backend.core.types import FinishReason
from backend.serving.admission import (
    estimate_frames,
    forecast,
    refusal,
    time_limit_s,
)
from backend.serving.codec_work import CodecWork
from backend.serving.cost_model import CostModel
from backend.serving.limits import SchedulerLimits
from backend.serving.playback import PlaybackClock
from backend.serving.policy import DeadlinePolicy, FifoPolicy
from backend.serving.prompts import KnownPrompts, PromptShape
from backend.serving.sequence import Sequence, SequenceStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.core.contract import Engine, StepResult
    from backend.core.types import SynthesisRequest
    from backend.serving.policy import Policy
    from backend.serving.sequence import Listener

logger = logging.getLogger(__name__)


class Scheduler:
    """Move sequences from waiting to finished. Everything here runs on the engine's thread.

    Args:
        engine: Called from here and nowhere else while sequences live.
        max_chunk_frames: Largest chunk of audio, in frames.
        listener_credit: Chunks made ahead of a listener that takes none.
        clock: Seconds that only go forward.
        limits: How to order work and what to refuse.
    """

    def __init__(
        self,
        engine: Engine,
        max_chunk_frames: int,
        listener_credit: int,
        clock: Callable[[], float] = time.perf_counter,
        limits: SchedulerLimits | None = None,
    ) -> None:
        self._engine = engine
        self._max_chunk_frames = max_chunk_frames
        self._listener_credit = listener_credit
        self._clock = clock
        self._limits = limits or SchedulerLimits()
        timings = engine.warm_up_timings() if isinstance(engine, TimedEngine) else ()
        self.cost = CostModel(1 / engine.info.frame_rate, timings)
        is_fifo = self._limits.scheduling == "fifo"
        reads_together = isinstance(engine, BatchingEngine)
        self._policy: Policy = (
            FifoPolicy() if is_fifo else DeadlinePolicy(self.cost, reads_together=reads_together)
        )
        self._prompts = KnownPrompts(engine)
        self._codec = CodecWork(engine, self.cost, clock)
        self._waiting: list[Sequence] = []
        """Sorted by ``due_at``."""
        self._running: dict[str, Sequence] = {}
        self._idle_s: float | None = None

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    @property
    def idle_s(self) -> float | None:
        """How long the loop may sleep for want of commands although there is work; None: not."""
        return self._idle_s

    def submit(self, request: SynthesisRequest, listener: Listener) -> None:
        """Put a request into the queue, or tell its listener at once why not."""
        now = self._clock()
        sequence = self._new_sequence(request, listener, now)
        sequence.due_at = self._policy.due_at(sequence)
        running = self._running.values()
        expected = forecast(sequence, self._waiting, running, self.cost, self._engine.max_slots)
        is_new_stream = request.stream and request.buffered_s is None
        if self._limits.admission == "refuse" and is_new_stream:
            error = refusal(expected, self._limits)
            if error is not None:
                listener.failed(error)
                return
        sequence.deadline_at = now + time_limit_s(expected, self._limits)
        insort(self._waiting, sequence, key=_due_at)

    def grant(self, request_id: str) -> None:
        """Let a sequence's listener take one more chunk."""
        if sequence := self._running.get(request_id):
            sequence.grant(self._clock())

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is; its listener hears nothing more."""
        self._waiting = [s for s in self._waiting if s.request.request_id != request_id]
        if sequence := self._running.get(request_id):
            self._retire(sequence)

    def fail_all(self, error: Exception) -> None:
        """End every sequence with ``error``. The engine is not called: it may be what failed."""
        for sequence in [*self._waiting, *self._running.values()]:
            sequence.status = SequenceStatus.FINISHED
            sequence.listener.failed(error)
        self._waiting.clear()
        self._running.clear()
        self._codec.forget()

    def step(self) -> bool:
        """Do one round of work.

        Returns:
            Whether there is any; False means that only a new command can change something. With
            True ``idle_s`` tells whether that is so for a while.
        """
        self._give_up_late_ones()
        is_admitting = self._admit()
        is_stepping = self._decode_step()
        is_decoding = self._decode_chunks(can_wait=is_admitting or is_stepping)
        for sequence in [s for s in self._running.values() if s.is_done]:
            self._finish(sequence)
        is_busy = is_admitting or is_stepping or is_decoding
        self._idle_s = None if is_busy else self._next_change_s()
        return is_busy or self._idle_s is not None

    def _new_sequence(self, request: SynthesisRequest, listener: Listener, now: float) -> Sequence:
        playback = None
        if request.stream:
            frame_s = self.cost.frame_s / request.speed
            playback = PlaybackClock(frame_s, now, request.buffered_s or 0.0)
        prompt = PromptShape.of(request)
        return Sequence(
            request,
            listener,
            prompt=prompt,
            max_credit=self._listener_credit,
            max_chunk_frames=self._max_chunk_frames,
            submitted_at=now,
            due_at=now,
            playback=playback,
            num_positions=self._prompts.num_read(prompt),
            num_expected=estimate_frames(request, self.cost),
        )

    def _give_up_late_ones(self) -> None:
        now = self._clock()
        late = [s for s in self._waiting if s.deadline_at <= now]
        if late:
            self._waiting = [s for s in self._waiting if s.deadline_at > now]
        late += [s for s in self._running.values() if s.deadline_at <= now and s.credit > 0]
        for sequence in late:
            spent_s = now - sequence.submitted_at
            where = "it waited" if sequence.slot is None else f"{sequence.num_frames} frames came"
            self._fail(
                sequence,
                DeadlineExceededError(
                    f"the speech was not ready in time ({where} in {spent_s:.1f} s); try again "
                    "when less is going on, send a shorter text, or raise REQUEST_TIMEOUT_S"
                ),
            )

    def _next_change_s(self) -> float | None:
        """Seconds until something is to be done without a command; None if nothing is."""
        if not self._waiting:
            return None
        now = self._clock()
        next_at = min(sequence.deadline_at for sequence in self._waiting)
        if self._num_free:  # the policy holds a prefill back until buffers allow it
            next_at = min(next_at, now + self.cost.frame_s / 2)
        return max(0.0, next_at - now)

    @property
    def _num_free(self) -> int:
        return self._engine.max_slots - len(self._running)

    def _admissible(self) -> list[Sequence]:
        return self._waiting if self._num_free else []

    def _admit(self) -> bool:
        now = self._clock()
        chosen = self._policy.pick_waiting(
            self._waiting, self._running.values(), now, self._num_free
        )
        is_admitting = bool(chosen)
        spoken = [sequence for sequence in chosen if sequence.request.codes is None]
        if len(spoken) > 1 and isinstance(self._engine, BatchingEngine):
            self._begin(spoken)
            if self._read_together(self._engine, spoken):
                chosen = [sequence for sequence in chosen if sequence.request.codes is not None]
        for sequence in chosen:
            if sequence in self._waiting:
                self._begin([sequence])
            with self._failing([sequence]):
                self._open(sequence)
        return is_admitting

    def _begin(self, sequences: list[Sequence]) -> None:
        now = self._clock()
        for sequence in sequences:
            self._waiting.remove(sequence)
            sequence.queue_s = now - sequence.submitted_at
            sequence.listener.began()

    def _read_together(self, engine: BatchingEngine, sequences: list[Sequence]) -> bool:
        """Run several prompts in one call; False when one is at fault and each goes alone."""
        started = self._clock()
        asked = [(s.request.text, s.request.turns, s.request.sampling) for s in sequences]
        with self._failing(sequences):
            try:
                slots = engine.prefill_many(asked)
            except TTSError:
                return False
            for sequence, slot in zip(sequences, slots, strict=True):
                sequence.slot = slot
            self._note_read(sequences, started)
        return True

    def _open(self, sequence: Sequence) -> None:
        started = self._clock()
        request = sequence.request
        if request.codes is not None:
            sequence.slot = self._engine.open_slot()
            sequence.frames = list(request.codes.T)
            sequence.num_frames = len(sequence.frames)
            sequence.finish_reason = FinishReason.CODES
            self._run(sequence, SequenceStatus.DRAINING, started)
        else:
            sequence.slot = self._engine.prefill(request.text, request.turns, request.sampling)
            self._note_read([sequence], started)

    def _note_read(self, sequences: list[Sequence], started: float) -> None:
        """Learn what prompts took, and let their sequences run."""
        spent_s = self._clock() - started
        num_read, has_news = self._prompts.note([sequence.prompt for sequence in sequences])
        self.cost.prefill.observe(num_read, spent_s)
        for sequence in sequences:
            sequence.prefill_s = spent_s / len(sequences)
            self._run(sequence, SequenceStatus.RUNNING, started)
        if has_news:  # those of the same voice have less to read now
            for other in self._waiting:
                other.num_positions = self._prompts.num_read(other.prompt)

    def _run(self, sequence: Sequence, status: SequenceStatus, started: float) -> None:
        sequence.status = status
        sequence.served_at = started
        self._running[sequence.request.request_id] = sequence
        sequence.begin_with(self.cost.first_frames(len(self._running)))

    def _decode_step(self) -> bool:
        started = self._clock()
        batch = self._policy.pick_rows(self._running.values(), self._admissible(), started)
        if not batch:
            return False
        with self._failing(batch):
            results = self._engine.decode_step([s.held_slot for s in batch])
            ended = self._clock()
            self.cost.step.observe(len(batch), ended - started)
            share_s = (ended - started) / len(batch)
            for sequence, result in zip(batch, results, strict=True):
                sequence.semantic_s += share_s
                sequence.served_at = ended
                _take_frame(sequence, result)
        return True

    def _decode_chunks(self, *, can_wait: bool) -> bool:
        """Hand out what the codec has made and give it what is due.

        Args:
            can_wait: Whether there is other work as long as the codec is at it.
        """
        was_busy = self._codec.is_busy
        if was_busy:
            if can_wait and not self._codec.is_ready:
                return True
            self._hand_out()
        due = self._policy.pick_chunks(self._running.values(), self._admissible(), self._clock())
        if not due:
            return was_busy
        with self._failing(due):
            self._codec.begin(due, num_rows=len(self._running))
        if not self._codec.is_beside:
            self._hand_out()
        return True

    def _hand_out(self) -> None:
        with self._failing(self._codec.listening):
            self._codec.hand_out()

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

    def _finish(self, sequence: Sequence) -> None:
        self._retire(sequence)
        if sequence.finish_reason is FinishReason.STOP:
            self.cost.note_spoken(len(sequence.request.text), sequence.num_frames)
        sequence.listener.finished(sequence.summary())

    def _retire(self, sequence: Sequence) -> None:
        # released first: if that fails, the sequence is still there to be told about it
        if sequence.slot is not None:
            self._engine.release(sequence.slot)
            sequence.slot = None
        sequence.status = SequenceStatus.FINISHED
        self._running.pop(sequence.request.request_id, None)


def _due_at(sequence: Sequence) -> float:
    return sequence.due_at


def _take_frame(sequence: Sequence, result: StepResult) -> None:
    if result.codes is None:
        sequence.finish_reason = FinishReason.LENGTH if result.hit_limit else FinishReason.STOP
        sequence.status = SequenceStatus.DRAINING
    else:
        sequence.frames.append(result.codes)
        sequence.num_frames += 1
