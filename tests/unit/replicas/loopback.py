"""Replicas in the test's own event loop: everything but Ray is real."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import AsyncGenerator
from typing import Any

from backend.core.errors import TTSError
from backend.core.types import SynthesisRequest
from backend.replicas.protocol import ReplicaLostError, ReplicaReport, Route, StreamItem, Verb
from backend.replicas.replica import EngineReplica
from tests.fakes import FakeEngineClient


class LoopbackReplicas:
    """Fulfills ``Replicas``. Calls go to the replicas in turn; every value is pickled on its way.

    Attributes:
        engines: By the replica's name.
        routes: Of every stream.
        granted: Chunks granted, by replica.
    """

    def __init__(self, num_replicas: int = 2) -> None:
        self.engines = {f"r{idx}": FakeEngineClient() for idx in range(num_replicas)}
        self.replicas = {name: EngineReplica(e, name) for name, e in self.engines.items()}
        self.routes: list[Route] = []
        self.granted: dict[str, int] = {}
        self._turn = itertools.count()
        self._dead: dict[str, asyncio.Event] = {name: asyncio.Event() for name in self.engines}

    async def open(self) -> None:
        for replica in self.replicas.values():
            await replica.open()

    def kill(self, name: str) -> None:
        """End a replica without asking."""
        self._dead[name].set()

    async def stream(
        self, route: Route, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[StreamItem, None]:
        self.routes.append(route)
        name = self._next()
        items = self.replicas[name].stream(stream_id, copied(request))
        try:
            while True:
                yield copied(await self._unless_dead(name, anext(items)))
        except StopAsyncIteration:
            return
        finally:
            await items.aclose()

    def grant(self, replica: str, stream_id: str, num_chunks: int) -> None:
        self.granted[replica] = self.granted.get(replica, 0) + num_chunks
        self.replicas[replica].grant(stream_id, num_chunks)

    async def call(self, verb: Verb, args: tuple[Any, ...]) -> Any:
        name = self._next()
        answer = await self._unless_dead(name, self.replicas[name].call(verb, copied(args)))
        if isinstance(answer, TTSError):
            raise answer
        return copied(answer)

    async def clear_caches(self) -> list[dict[str, int]]:
        return [await self.replicas[name].clear_caches() for name in self._alive()]

    async def reports(self) -> list[ReplicaReport]:
        return [copied(self.replicas[name].report()) for name in self._alive()]

    def _alive(self) -> list[str]:
        return [name for name, dead in self._dead.items() if not dead.is_set()]

    def _next(self) -> str:
        alive = self._alive()
        if not alive:
            raise ReplicaLostError("there is no replica")
        return alive[next(self._turn) % len(alive)]

    async def _unless_dead(self, name: str, answer: Any) -> Any:
        asked = asyncio.ensure_future(answer)
        died = asyncio.ensure_future(self._dead[name].wait())
        try:
            await asyncio.wait([asked, died], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise ReplicaLostError("the replica died")
        finally:
            died.cancel()
            if not asked.done():
                asked.cancel()
                await asyncio.wait([asked])


def copied(value: Any) -> Any:
    """What another process would get."""
    return pickle.loads(pickle.dumps(value))
