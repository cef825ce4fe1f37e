"""One replica: an engine of its own, and what the other side may ask of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from backend.core.errors import EngineUnavailableError, TTSError
from backend.core.types import AudioChunk, EngineState
from backend.replicas.protocol import WINDOW_CHUNKS, Opened, ReplicaReport
from backend.worker.faults import portable_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.core.contract import EngineClient
    from backend.core.types import SynthesisRequest
    from backend.replicas.protocol import StreamItem, Verb


class EngineReplica:
    """Serve one engine to many API processes. Confined to one event loop.

    Life: made -> ``open`` -> any calls -> ``close``. Errors of the project are answers, so that no
    layer between wraps them.

    Args:
        engine: Not started yet.
        name: Of this replica.
    """

    def __init__(self, engine: EngineClient, name: str) -> None:
        self._engine = engine
        self._name = name
        self._windows: dict[str, asyncio.Semaphore] = {}

    async def open(self) -> None:
        """Load the engine.

        Raises:
            EngineUnavailableError: It failed to start; the message says why.
        """
        await self._engine.start()
        await self._engine.wait_ready()

    async def stream(
        self, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[StreamItem, None]:
        """Speak a request; see ``protocol``. Closing the generator frees its slot."""
        window = self._windows[stream_id] = asyncio.Semaphore(WINDOW_CHUNKS)
        results = self._engine.synthesize(request)
        try:
            yield Opened(self._name)
            async for result in results:
                yield result
                if isinstance(result, AudioChunk):
                    await window.acquire()
        except TTSError as error:
            yield portable_error(error)
        finally:
            self._windows.pop(stream_id, None)
            await results.aclose()

    def grant(self, stream_id: str, num_chunks: int) -> None:
        """Let a stream send further chunks; does nothing when it has ended."""
        window = self._windows.get(stream_id)
        for _ in range(num_chunks if window is not None else 0):
            assert window is not None
            window.release()

    async def call(self, verb: Verb, args: tuple[Any, ...]) -> Any:
        """Call the engine; gives its answer, or the error."""
        try:
            return await getattr(self._engine, verb)(*args)
        except TTSError as error:
            return portable_error(error)

    async def clear_caches(self) -> dict[str, int]:
        """Empty the engine's caches; gives the entries dropped, by name."""
        return await self._engine.clear_caches()

    def report(self) -> ReplicaReport:
        """Tell how the engine is."""
        info = self._engine.info
        assert info is not None, "nobody asks a replica that is not open"
        return ReplicaReport(self._name, info, self._engine.status())

    def check_health(self) -> None:
        """Tell whether this replica can still be of use.

        Raises:
            EngineUnavailableError: It cannot, and has to be replaced.
        """
        status = self._engine.status()
        if status.state in (EngineState.FAILED, EngineState.CLOSED):
            raise EngineUnavailableError(f"the engine is {status.state}: {status.detail}")

    async def close(self) -> None:
        """Stop the engine; unfinished streams end with ``ServiceClosedError``."""
        await self._engine.close()
