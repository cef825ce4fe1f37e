"""The engine's thread: load, then obey commands and step the scheduler until told to stop."""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from backend.core.errors import EngineUnavailableError, ServiceClosedError, TTSError
from backend.core.types import EngineState, EngineStatus
from backend.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.contract import Engine
    from backend.core.types import EngineInfo, SynthesisRequest
    from backend.serving.sequence import Listener

logger = logging.getLogger(__name__)

LISTENER_CREDIT = 4
"""Chunks made ahead of a listener before its sequence pauses."""


class EngineLoop:
    """Own the engine: every engine call happens in ``run``.

    Life: made -> ``run`` in a thread of its own -> ``stop`` from any thread. Everything but ``run``
    may be called from any thread at any time, before and after the loop lives, and never blocks.
    """

    def __init__(self, load_engine: Callable[[], Engine], max_chunk_frames: int) -> None:
        self._load_engine = load_engine
        self._max_chunk_frames = max_chunk_frames
        self._commands: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._post_lock = threading.Lock()
        self._has_ended = False
        self._engine: Engine | None = None
        self._scheduler: Scheduler | None = None
        self._status = EngineStatus(EngineState.STARTING, "loading the model")
        self.ready: Future[EngineInfo] = Future()

    @property
    def status(self) -> EngineStatus:
        """The engine as it was after the last step."""
        return self._status

    def stop(self) -> None:
        """Ask ``run`` to end after the step at hand."""
        self._commands.put(None)

    def submit(self, request: SynthesisRequest, listener: Listener) -> None:
        """Queue a request; its results, or the news that there will be none, go to ``listener``."""

        def command() -> None:
            if self._scheduler is None:
                listener.failed(EngineUnavailableError(self._status.detail))
            else:
                self._scheduler.submit(request, listener)

        self._post(command)

    def grant(self, request_id: str) -> None:
        """Let a request's listener take one more chunk."""
        self._post(lambda: self._scheduler and self._scheduler.grant(request_id))

    def cancel(self, request_id: str) -> None:
        """Forget a request."""
        self._post(lambda: self._scheduler and self._scheduler.cancel(request_id))

    def call(self, verb: Callable[[Engine], Any]) -> Future[Any]:
        """Have the engine's thread call the engine; the future gets the result or the error."""
        future: Future[Any] = Future()
        self._post(lambda: self._answer(future, verb))
        return future

    def run(self) -> None:
        """Load the engine and serve until ``stop``. The thread's body."""
        try:
            engine = self._load_engine()
            engine.warm_up()
        except Exception as error:  # noqa: BLE001 - a failed start is reported, whatever it was
            self._note_failed_start(error)
            self._end()
            return
        self._engine = engine
        self._scheduler = Scheduler(engine, self._max_chunk_frames, LISTENER_CREDIT)
        self._note_status(engine, self._scheduler)
        self.ready.set_result(engine.info)
        self._serve_until_end(engine, self._scheduler)

    def _note_failed_start(self, error: Exception) -> None:
        """Say why there is no engine: in a line where the reason is known, else with a trace."""
        reason = str(error) if isinstance(error, TTSError) else f"{type(error).__name__}: {error}"
        logger.error(
            "the engine failed to start: %s",
            reason,
            exc_info=None if isinstance(error, TTSError) else error,
        )
        self._status = EngineStatus(EngineState.FAILED, reason)
        failure = EngineUnavailableError(f"the engine failed to start: {reason}")
        failure.__cause__ = error
        self.ready.set_exception(failure)

    def _serve_until_end(self, engine: Engine, scheduler: Scheduler) -> None:
        error: Exception = ServiceClosedError("the service is shutting down")
        state = EngineState.CLOSED
        try:
            self._serve(engine, scheduler)
        except Exception as crash:
            logger.exception("the engine's loop crashed")
            error = EngineUnavailableError(f"the engine stopped: {type(crash).__name__}: {crash}")
            state = EngineState.FAILED
        self._status = EngineStatus(state, str(error))
        scheduler.fail_all(error)
        self._engine = self._scheduler = None
        try:
            engine.close()
        finally:
            self._end()

    def _serve(self, engine: Engine, scheduler: Scheduler) -> None:
        has_work = False
        while self._obey(wait=not has_work):
            has_work = scheduler.step()
            self._note_status(engine, scheduler)

    def _obey(self, *, wait: bool) -> bool:
        """Run the commands at hand; with ``wait`` sleep until there is one. False means stop."""
        block = wait
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            block = False

    def _post(self, command: Callable[[], object]) -> None:
        with self._post_lock:
            if not self._has_ended:
                self._commands.put(command)
                return
        command()

    def _end(self) -> None:
        """Answer what is still in the queue; from here on commands answer themselves."""
        with self._post_lock:
            self._has_ended = True
        while True:
            try:
                command = self._commands.get(block=False)
            except queue.Empty:
                return
            if command is not None:
                command()

    def _answer(self, future: Future[Any], verb: Callable[[Engine], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if self._engine is None:
            future.set_exception(EngineUnavailableError(self._status.detail))
            return
        try:
            future.set_result(verb(self._engine))
        except Exception as error:  # noqa: BLE001 - carried to the caller, who waits for it
            future.set_exception(error)

    def _note_status(self, engine: Engine, scheduler: Scheduler) -> None:
        memory_bytes, peak_bytes = engine.memory_bytes()
        self._status = EngineStatus(
            EngineState.READY,
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            max_running=engine.max_slots,
            memory_bytes=memory_bytes,
            peak_memory_bytes=peak_bytes,
            caches=engine.cache_counters(),
        )
