"""The lives of the engine: start one, watch it, and start the next one when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from backend.core.errors import EngineUnavailableError, ServiceClosedError
from backend.core.types import EngineInfo, EngineState, EngineStatus
from backend.worker.protocol import (
    Command,
    Crashed,
    Deliver,
    Ended,
    Event,
    Loaded,
    LoadFailed,
    MemoryRead,
    Ping,
    Pong,
    Transport,
)
from backend.worker.restart_policy import Backoff, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.worker.open_work import OpenWork

logger = logging.getLogger(__name__)

MakeTransport: TypeAlias = "Callable[[Deliver], Transport]"

_LOADING = "loading the model"


@dataclass(slots=True)
class _Life:
    """One engine from its start to its end.

    Attributes:
        ended: Done when nothing more comes; the result is why.
        started_at: Clock reading.
        heard_at: When it last said something.
        ready_at: When it could serve, or None.
        pinged_at: When the question was asked that it has not answered, or None.
        failure: Why it ended, as far as it is known before the end.
        is_final: Another life would end in the same way.
    """

    ended: asyncio.Future[str]
    started_at: float
    heard_at: float
    transport: Transport = field(init=False)
    ready_at: float | None = None
    pinged_at: float | None = None
    failure: str | None = None
    is_final: bool = False
    max_running: int = 0
    memory: MemoryRead = field(default_factory=lambda: MemoryRead(None, None))


class Supervisor:
    """Keep an engine alive. Confined to the event loop; only ``_deliver`` is called elsewhere.

    Args:
        make_transport: Makes the next life; gets where its events go.
        work: What the engine is asked for; told when it dies, and sent again when it is back.
        policy: When to restart and when to give up.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        make_transport: MakeTransport,
        work: OpenWork,
        policy: RestartPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_transport = make_transport
        self._work = work
        self._policy = policy
        self._clock = clock
        self._life: _Life | None = None
        self._running: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._state, self._detail = EngineState.STARTING, _LOADING
        self._restarts = self._num_broken = 0
        self._last_failure: str | None = None
        self.info: EngineInfo | None = None

    @property
    def pid(self) -> int | None:
        """The engine's own process, while there is one."""
        return self._life.transport.pid if self._life is not None else None

    def start(self) -> None:
        """Begin with the first life."""
        self._ready = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())

    async def wait_ready(self) -> EngineInfo:
        """Wait for the first engine that can serve.

        Raises:
            EngineUnavailableError: There will be none.
        """
        assert self._ready is not None, "wait_ready before start"
        return await asyncio.shield(self._ready)

    def status(self) -> EngineStatus:
        """The engine as it is now."""
        life, work = self._life, self._work
        memory = life.memory if life is not None else MemoryRead(None, None)
        return EngineStatus(
            self._state,
            self._detail,
            num_running=work.num_running,
            num_waiting=work.num_requests - work.num_running,
            max_running=life.max_running if life is not None else 0,
            memory_bytes=memory.memory_bytes,
            peak_memory_bytes=memory.peak_memory_bytes,
            restarts=self._restarts,
            streams_broken=self._num_broken,
            last_failure=self._last_failure,
            caches=memory.caches,
        )

    def check_open(self) -> None:
        """Refuse what no engine will ever do, or what comes before the first one is there.

        Raises:
            EngineUnavailableError: Says why.
        """
        is_coming_back = self._state is EngineState.RESTARTING and self.info is not None
        if self._state is not EngineState.READY and not is_coming_back:
            raise EngineUnavailableError(f"the engine is {self._state}: {self._detail}")

    def send(self, command: Command) -> bool:
        """Tell the engine something, if there is one now.

        Returns:
            Whether it was told; open work is told again to the next one.
        """
        if self._state is not EngineState.READY or self._life is None:
            return False
        self._life.transport.send(command)
        return True

    async def close(self) -> None:
        """End the engine and everything that waits for it. Returns when it is gone."""
        was_serving = self._state is EngineState.READY
        error = ServiceClosedError("the service is shutting down")
        self._state, self._detail = EngineState.CLOSED, str(error)
        self._work.fail_all(error)
        self._fail_ready(error)
        if self._life is not None:
            if not was_serving:
                self._life.transport.kill()  # nobody waits for what it is doing
            await self._life.transport.close()
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        backoff = Backoff(self._policy)
        while True:
            life = await self._live()
            if self._state is EngineState.CLOSED:
                return
            reason = life.ended.result()
            if life.is_final or not life.transport.can_restart or self._has_tried_enough():
                self._give_up(reason)
                return
            self._note_death(reason)
            served_s = None if life.ready_at is None else self._clock() - life.ready_at
            delay_s = backoff.next_s(served_s)
            logger.error("%s; it is started again in %.1f s", reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _live(self) -> _Life:
        """Begin a life and wait for its end."""
        loop, now = asyncio.get_running_loop(), self._clock()
        life = _Life(loop.create_future(), started_at=now, heard_at=now)

        def deliver(events: tuple[Event, ...]) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens
                loop.call_soon_threadsafe(self._take, life, events)

        life.transport = self._make_transport(deliver)
        self._life = life
        life.transport.start()
        watching = asyncio.create_task(self._watch(life))
        try:
            await life.ended
        finally:
            watching.cancel()
        return life

    def _take(self, life: _Life, events: tuple[Event, ...]) -> None:
        life.heard_at = self._clock()
        for event in events:
            match event:
                case Loaded(info, max_running):
                    life.max_running = max_running
                    self._become_ready(life, info)
                case LoadFailed(reason, is_final):
                    life.failure, life.is_final = reason, is_final
                case Crashed(reason):
                    life.failure = reason
                case MemoryRead():
                    life.memory = event
                case Pong():
                    life.pinged_at = None
                case Ended(reason):
                    self._leave_ready(life.failure or reason)
                    if not life.ended.done():  # closing waits no more
                        life.ended.set_result(life.failure or reason)
                case _:
                    self._work.take(event)

    def _become_ready(self, life: _Life, info: EngineInfo) -> None:
        if self._state is EngineState.CLOSED:
            return
        if self.info is not None and self.info.revision != info.revision:
            life.failure, life.is_final = "the model's files changed: restart the service", True
            life.transport.kill()
            return
        self.info, life.ready_at = info, self._clock()
        self._state, self._detail = EngineState.READY, ""
        for command in self._work.commands():
            life.transport.send(command)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(info)
        if self._restarts:
            logger.warning("the engine is back after %d restarts", self._restarts)

    def _leave_ready(self, reason: str) -> None:
        """Send nothing more to an engine that is gone."""
        if self._state is EngineState.READY:
            self._state, self._detail = EngineState.RESTARTING, reason

    def _note_death(self, reason: str) -> None:
        self._restarts += 1
        self._last_failure = reason
        self._state = EngineState.RESTARTING
        self._detail = f"{reason}; it is started again"
        num_broken = self._work.engine_died(reason)
        self._num_broken += num_broken
        if num_broken:
            logger.error("%d streams were cut", num_broken)

    def _has_tried_enough(self) -> bool:
        return self.info is None and self._restarts + 1 >= self._policy.max_first_starts

    def _give_up(self, reason: str) -> None:
        logger.error("there is no engine any more: %s", reason)
        self._state, self._detail = EngineState.FAILED, reason
        self._last_failure = reason
        self._work.fail_all(EngineUnavailableError(reason))
        self._fail_ready(EngineUnavailableError(f"the engine failed to start: {reason}"))

    def _fail_ready(self, error: Exception) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # read here, so that nobody has to

    async def _watch(self, life: _Life) -> None:
        """Kill a life that does not answer."""
        while life.transport.can_restart:
            await asyncio.sleep(self._policy.tick_s)
            reason = self._overdue(life)
            if reason is not None:
                logger.error("%s; it is killed", reason)
                life.failure = reason
                life.transport.kill()
                return
            if life.ready_at is not None and life.pinged_at is None and not self._work.is_empty:
                life.pinged_at = self._clock()
                life.transport.send(Ping())

    def _overdue(self, life: _Life) -> str | None:
        now, policy = self._clock(), self._policy
        if life.ready_at is None:
            if now - life.started_at > policy.load_timeout_s:
                return f"the engine was not ready after {policy.load_timeout_s:g} s"
            return None
        if life.pinged_at is None:
            return None
        if now - max(life.pinged_at, life.heard_at) > policy.hang_timeout_s:
            return f"the engine gave no sign of life for {policy.hang_timeout_s:g} s"
        return None
