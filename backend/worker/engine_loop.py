"""The engine's thread: load, then obey commands and step the scheduler until told to stop."""

from __future__ import annotations

import logging
import queue
import time
from typing import TYPE_CHECKING

from backend.core.contract import PreparingEngine
from backend.core.errors import TTSError
from backend.worker.faults import is_device_fault, portable_error
from backend.worker.protocol import (
    Abandon,
    Answered,
    Audio,
    Began,
    Call,
    Cancel,
    Command,
    Crashed,
    Failed,
    Finished,
    Grant,
    Loaded,
    LoadFailed,
    MemoryRead,
    Ping,
    Pong,
    Refused,
    Stop,
    Submit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.contract import Engine
    from backend.core.types import AudioChunk, SynthesisSummary
    from backend.serving.scheduler import Scheduler
    from backend.worker.protocol import Emit, EngineSource

logger = logging.getLogger(__name__)

MEMORY_READ_EVERY_S = 0.5
"""Reading the device's memory costs more than a step may wait for, so not every step does."""


class EngineLoop:
    """Own the engine: every engine call happens in ``run``.

    Life: made -> ``run`` once, in the thread that is the engine's. ``post`` may be called from any
    thread at any time and never blocks.

    Args:
        source: Makes the engine and its scheduler.
        emit: Gets every event, on the engine's thread.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, source: EngineSource, emit: Emit, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._emit = emit
        self._clock = clock
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._abandoned: set[int] = set()
        self._fault: Exception | None = None
        self._memory = MemoryRead(None, None)
        self._memory_read_at = clock() - MEMORY_READ_EVERY_S

    def post(self, command: Command) -> None:
        """Queue a command; it is obeyed between two steps."""
        if isinstance(command, Abandon):
            self._abandoned.add(command.call_id)  # at once: the call may stand before it
        self._commands.put(command)

    def run(self) -> None:
        """Load the engine and serve until ``Stop``, a failed start or a crash."""
        try:
            engine = self._source.load()
            engine.warm_up()
            scheduler = self._source.make_scheduler(engine)
        except Exception as error:  # noqa: BLE001 - a failed start is reported, whatever it was
            self._emit(_failed_start(error))
            return
        self._emit(Loaded(engine.info, engine.max_slots))
        try:
            self._serve(engine, scheduler)
        except Exception as crash:
            logger.exception("the engine's loop crashed")
            self._emit(Crashed(f"the engine stopped: {type(crash).__name__}: {crash}"))
        engine.close()

    def _serve(self, engine: Engine, scheduler: Scheduler) -> None:
        has_work, is_preparing = False, True
        while self._obey(engine, scheduler, wait=not (has_work or is_preparing)):
            has_work = scheduler.step()
            if self._fault is not None:
                raise self._fault
            is_preparing = not has_work and _prepare_one(engine)
            self._tell_memory(engine, is_idle=not has_work)

    def _obey(self, engine: Engine, scheduler: Scheduler, *, wait: bool) -> bool:
        """Run the commands at hand; False means stop.

        With ``wait`` sleep until there is one, with the scheduler's ``idle_s`` at most so long.
        """
        idle_s = scheduler.idle_s
        block = wait or idle_s is not None
        while True:
            try:
                command = self._commands.get(block=block, timeout=idle_s)
            except queue.Empty:
                return True
            if isinstance(command, Stop):
                return False
            self._execute(command, engine, scheduler)
            block = False

    def _execute(self, command: Command, engine: Engine, scheduler: Scheduler) -> None:
        match command:
            case Submit(request):
                scheduler.submit(request, _Herald(request.request_id, self._emit, self._lose))
            case Grant(request_id):
                scheduler.grant(request_id)
            case Cancel(request_id):
                scheduler.cancel(request_id)
            case Call():
                self._answer(command, engine)
            case Abandon(call_id):
                self._abandoned.discard(call_id)
            case Ping():
                self._emit(Pong())
            case Stop():
                raise AssertionError("whoever reads the queue obeys this one")

    def _answer(self, call: Call, engine: Engine) -> None:
        if call.call_id in self._abandoned:
            return
        try:
            value = getattr(engine, call.verb)(*call.args)
        except Exception as error:
            if is_device_fault(error):
                raise
            if not isinstance(error, TTSError):
                logger.exception("the engine failed in %s", call.verb)
            self._emit(Refused(call.call_id, portable_error(error)))
        else:
            self._emit(Answered(call.call_id, value))

    def _lose(self, fault: Exception) -> None:
        """Note that the device is lost; the loop ends after the step at hand."""
        self._fault = fault

    def _tell_memory(self, engine: Engine, *, is_idle: bool) -> None:
        now = self._clock()
        if not is_idle and now - self._memory_read_at < MEMORY_READ_EVERY_S:
            return
        self._memory_read_at = now
        memory = MemoryRead(*engine.memory_bytes(), engine.cache_counters())
        if memory != self._memory:
            self._memory = memory
            self._emit(memory)


class _Herald:
    """Fulfills ``serving.sequence.Listener``: turns one request's results into events."""

    def __init__(self, request_id: str, emit: Emit, lose: Callable[[Exception], None]) -> None:
        self._request_id = request_id
        self._emit = emit
        self._lose = lose

    def began(self) -> None:
        """Say that work on the request begins."""
        self._emit(Began(self._request_id))

    def audio(self, chunk: AudioChunk) -> None:
        """Pass samples on."""
        self._emit(Audio(self._request_id, chunk))

    def finished(self, summary: SynthesisSummary) -> None:
        """Pass the end on."""
        self._emit(Finished(self._request_id, summary))

    def failed(self, error: Exception) -> None:
        """Pass a failure on, unless it is the engine's end: others decide then what is retried."""
        if is_device_fault(error):
            self._lose(error)
        else:
            self._emit(Failed(self._request_id, portable_error(error)))


def _prepare_one(engine: Engine) -> bool:
    """Use a quiet moment; False when there is nothing to use it for."""
    return isinstance(engine, PreparingEngine) and engine.prepare_one()


def _failed_start(error: Exception) -> LoadFailed:
    """Say why there is no engine: in a line where the reason is known, else with a trace."""
    is_known = isinstance(error, TTSError)
    reason = str(error) if is_known else f"{type(error).__name__}: {error}"
    logger.error("the engine failed to start: %s", reason, exc_info=None if is_known else error)
    return LoadFailed(reason, is_final=is_known)
