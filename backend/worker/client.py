"""The engine as the service sees it, wherever it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from backend.core.errors import QueueFullError
from backend.core.types import AudioChunk, EngineStatus, SynthesisSummary
from backend.worker.open_work import OpenWork
from backend.worker.protocol import Abandon, Cancel, Grant, Submit
from backend.worker.restart_policy import RestartPolicy
from backend.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.types import EngineInfo, SynthesisRequest, Turn
    from backend.worker.protocol import Verb
    from backend.worker.supervisor import MakeTransport


class TransportClient:
    """Fulfills ``core.contract.EngineClient`` over a thread or a process.

    When the engine dies and can be restarted, requests wait for the next one: those that had not
    begun as if nothing had happened, those that had begun and made no sound once more. Speech that
    had begun to sound ends with ``EngineDiedError``. All methods are called from the event loop's
    thread.

    Args:
        make_transport: Makes one life of the engine.
        max_open: Requests that may be open at once, spoken and waiting together.
        policy: When to restart and when to give up.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        make_transport: MakeTransport,
        max_open: int,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = OpenWork()
        self._max_open = max_open
        policy = policy or RestartPolicy()
        self._supervisor = Supervisor(make_transport, self._work, policy, clock)

    @property
    def pid(self) -> int | None:
        """The engine's own process, while there is one."""
        return self._supervisor.pid

    async def start(self) -> None:
        """Begin to load the model; ``status`` tells how it goes."""
        self._supervisor.start()

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine can serve.

        Raises:
            EngineUnavailableError: It failed to start; the message says why.
        """
        return await self._supervisor.wait_ready()

    @property
    def info(self) -> EngineInfo | None:
        """Facts about the engine once it was ready."""
        return self._supervisor.info

    def status(self) -> EngineStatus:
        """The engine as it is now."""
        return self._supervisor.status()

    async def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` float32 samples into codes ``[K, F]`` int32."""
        return await self._call("encode_reference", samples)

    async def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """Positions that a prompt takes."""
        return await self._call("prompt_length", text, tuple(turns))

    async def clear_caches(self) -> dict[str, int]:
        """Empty the engine's own caches."""
        return await self._call("clear_caches")

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Yield audio as it is made, then one summary; closing the generator cancels.

        Raises:
            QueueFullError: As many requests are open as may be.
            EngineUnavailableError: The engine is not there.
            EngineDiedError: It died, and this request cannot be begun anew.
            GenerationError: The engine failed while it worked.
        """
        self._supervisor.check_open()
        if self._work.num_requests >= self._max_open:
            raise QueueFullError(
                f"{self._work.num_requests} requests are being served or waiting, which is the "
                "limit (MAX_SLOTS + MAX_QUEUE); try again in a moment"
            )
        opened = self._work.open_request(request)
        request_id = opened.request.request_id
        try:
            self._supervisor.send(Submit(opened.request))
            while True:
                result = await opened.mailbox.take()
                yield result
                if isinstance(result, SynthesisSummary):
                    return
                if not opened.has_ended:
                    self._supervisor.send(Grant(request_id))
        finally:
            if not opened.has_ended:
                self._work.close_request(opened)
                self._supervisor.send(Cancel(request_id))

    async def close(self) -> None:
        """Stop the engine; unfinished requests end with ``ServiceClosedError``."""
        await self._supervisor.close()

    async def _call(self, verb: Verb, *args: Any) -> Any:
        self._supervisor.check_open()
        command, answer = self._work.open_call(verb, args)
        if self._supervisor.send(command):
            self._work.note_sent(command)
        try:
            return await answer
        finally:
            self._work.close_call(command)
            if answer.cancelled():
                self._supervisor.send(Abandon(command.call_id))
