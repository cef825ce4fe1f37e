"""The engine in a thread of the API process."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

from backend.core.errors import EngineUnavailableError, QueueFullError
from backend.core.types import AudioChunk, EngineState, EngineStatus, SynthesisSummary
from backend.worker.engine_loop import EngineLoop
from backend.worker.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import Engine
    from backend.core.types import EngineInfo, SynthesisRequest, Turn
    from backend.serving.limits import SchedulerLimits

STOP_TIMEOUT_S = 30.0
"""A step takes far less, a prefill on a slow CPU a few seconds."""

T = TypeVar("T")


class EngineThread:
    """Fulfills ``core.contract.EngineClient`` with a thread.

    ``start`` begins to load and returns; ``close`` ends the thread. All methods are called from
    the event loop's thread.

    Args:
        load_engine: Makes the engine; runs on the engine's thread.
        max_chunk_frames: Largest chunk of audio, in frames.
        max_open: Requests that may be open at once, spoken and waiting together.
        limits: How work is ordered and what is refused.
    """

    def __init__(
        self,
        load_engine: Callable[[], Engine],
        max_chunk_frames: int,
        max_open: int,
        limits: SchedulerLimits | None = None,
    ) -> None:
        self._loop = EngineLoop(load_engine, max_chunk_frames, limits)
        self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
        self._max_open = max_open
        self._num_open = 0

    async def start(self) -> None:
        """Begin to load the model; ``status`` tells how it goes."""
        self._thread.start()

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine can serve.

        Raises:
            EngineUnavailableError: It failed to start; the message says why.
        """
        return await asyncio.shield(asyncio.wrap_future(self._loop.ready))

    @property
    def info(self) -> EngineInfo | None:
        """Facts about the engine once it is ready."""
        ready = self._loop.ready
        return ready.result() if ready.done() and ready.exception() is None else None

    def status(self) -> EngineStatus:
        """The engine as it is now."""
        return self._loop.status

    async def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` float32 samples into codes ``[K, F]`` int32."""
        return await self._call(lambda engine: engine.encode_reference(samples))

    async def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """Positions that a prompt takes."""
        return await self._call(lambda engine: engine.prompt_length(text, turns))

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Yield audio as it is made, then one summary; closing the generator cancels.

        Raises:
            QueueFullError: As many requests are open as may be.
            EngineUnavailableError: The engine is not there.
            GenerationError: The engine failed while it worked.
        """
        self._check_serving()
        if self._num_open >= self._max_open:
            raise QueueFullError(
                f"{self._num_open} requests are being served or waiting, which is the limit "
                "(MAX_SLOTS + MAX_QUEUE); try again in a moment"
            )
        mailbox = Mailbox(asyncio.get_running_loop())
        self._num_open += 1
        try:
            self._loop.submit(request, mailbox)
            while True:
                result = await mailbox.take()
                yield result
                if isinstance(result, SynthesisSummary):
                    return
                self._loop.grant(request.request_id)
        finally:
            self._num_open -= 1
            self._loop.cancel(request.request_id)

    async def close(self) -> None:
        """Stop the engine; unfinished requests end with ``ServiceClosedError``."""
        if self._thread.is_alive():
            self._loop.stop()
            await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)

    def _check_serving(self) -> None:
        status = self.status()
        if status.state is not EngineState.READY:
            raise EngineUnavailableError(f"the engine is {status.state}: {status.detail}")

    async def _call(self, verb: Callable[[Engine], T]) -> T:
        self._check_serving()
        return await asyncio.wrap_future(self._loop.call(verb))
