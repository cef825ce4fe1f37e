"""The engine as the service sees it, when it is many engines in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import TYPE_CHECKING, Any

from backend.core.errors import (
    EngineDiedError,
    EngineUnavailableError,
    ServiceClosedError,
    TTSError,
)
from backend.core.types import (
    AudioChunk,
    CacheCounters,
    EngineState,
    EngineStatus,
    SynthesisSummary,
)
from backend.replicas.protocol import (
    GRANT_CHUNKS,
    Opened,
    ReplicaLostError,
    Route,
    voice_key,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.types import EngineInfo, SynthesisRequest, Turn
    from backend.replicas.protocol import ReplicaReport, Replicas, Verb

logger = logging.getLogger(__name__)

MAX_TRIES = 2
"""Replicas that a request may lose; then it is the likely reason why they die."""
ASK_EVERY_S = 2.0
ASK_AT_FIRST_EVERY_S = 0.25

_LOADING = "no replica of the engine is ready yet"
_NONE_LEFT = "no replica of the engine is running; a new one is being started"


class RemoteEngineClient:
    """Fulfills ``core.contract.EngineClient`` over replicas. Confined to the event loop.

    A request whose replica dies before there is any sound begins once more on another one. Speech
    that had begun to sound ends with ``EngineDiedError``.

    Args:
        connect: Reaches the replicas; called by ``start``.
    """

    def __init__(self, connect: Callable[[], Replicas]) -> None:
        self._connect = connect
        self._replicas: Replicas | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._reports: dict[str, ReplicaReport] = {}
        self._is_closed = False
        self._num_lost = self._num_broken = 0
        self._last_failure: str | None = None
        self.info: EngineInfo | None = None

    async def start(self) -> None:
        """Begin to look for replicas."""
        self._replicas = self._connect()
        self._ready = asyncio.get_running_loop().create_future()
        self._watching = asyncio.create_task(self._watch())

    async def wait_ready(self) -> EngineInfo:
        """Wait for the first replica.

        Raises:
            ServiceClosedError: The service ends before there is one.
        """
        assert self._ready is not None, "wait_ready before start"
        return await asyncio.shield(self._ready)

    def status(self) -> EngineStatus:
        """All replicas as one engine, as they were when they were last asked."""
        statuses = [report.status for report in self._reports.values()]
        state, detail = self._state(statuses)
        return EngineStatus(
            state,
            detail,
            num_running=sum(status.num_running for status in statuses),
            num_waiting=sum(status.num_waiting for status in statuses),
            max_running=sum(status.max_running for status in statuses),
            memory_bytes=_sum(status.memory_bytes for status in statuses),
            peak_memory_bytes=_sum(status.peak_memory_bytes for status in statuses),
            restarts=self._num_lost + sum(status.restarts for status in statuses),
            streams_broken=self._num_broken + sum(status.streams_broken for status in statuses),
            last_failure=self._last_failure,
            caches=_add_up(statuses),
        )

    async def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` float32 samples into codes ``[K, F]`` int32."""
        return await self._call("encode_reference", samples)

    async def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """Positions that a prompt takes."""
        return await self._call("prompt_length", text, tuple(turns))

    async def clear_caches(self) -> dict[str, int]:
        """Empty the caches of every replica; gives the entries dropped in all."""
        cleared: dict[str, int] = {}
        try:
            answers = await self._connected().clear_caches()
        except ReplicaLostError as error:
            raise EngineUnavailableError(f"not every replica could be asked: {error}") from error
        for answer in answers:
            for name, count in answer.items():
                cleared[name] = cleared.get(name, 0) + count
        return cleared

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Yield audio as it is made, then one summary; closing the generator cancels.

        Raises:
            QueueFullError: The replica's queue is full.
            EngineUnavailableError: There is no replica.
            EngineDiedError: The replica died, and the request cannot be begun anew.
            GenerationError: The engine failed while it worked.
        """
        for num_tries in range(1, MAX_TRIES + 1):
            has_sound = False
            results = self._spoken_once(request)
            try:
                async for result in results:
                    has_sound = True
                    yield result
            except ReplicaLostError as error:
                self._note_loss(error, is_broken=has_sound)
                if has_sound:
                    raise EngineDiedError(f"{error} while it spoke: the sound ends here") from error
                if num_tries == MAX_TRIES:
                    raise EngineDiedError(f"{error}, again, before there was any sound") from error
            else:
                return
            finally:
                await results.aclose()

    async def close(self) -> None:
        """Forget the replicas: they have other callers, and whoever started them stops them."""
        self._is_closed = True
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ServiceClosedError("the service is shutting down"))
            self._ready.exception()  # read here, so that nobody has to

    async def _spoken_once(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        replicas, stream_id = self._connected(), uuid.uuid4().hex
        replica, num_taken = "", 0
        items = replicas.stream(Route(voice_key(request.turns)), stream_id, request)
        try:
            async for item in items:
                if isinstance(item, TTSError):
                    raise item
                if isinstance(item, Opened):
                    replica = item.replica
                    continue
                yield item
                if isinstance(item, SynthesisSummary):
                    return
                num_taken += 1
                if num_taken % GRANT_CHUNKS == 0:
                    replicas.grant(replica, stream_id, GRANT_CHUNKS)
        finally:
            await items.aclose()
        raise ReplicaLostError("the replica of the engine ended the stream")

    async def _call(self, verb: Verb, *args: Any) -> Any:
        for _ in range(MAX_TRIES - 1):
            try:
                return await self._connected().call(verb, args)
            except ReplicaLostError as error:
                self._note_loss(error, is_broken=False)
        try:
            return await self._connected().call(verb, args)
        except ReplicaLostError as error:
            self._note_loss(error, is_broken=False)
            raise EngineDiedError(f"{error}, again, before there was an answer") from error

    def _connected(self) -> Replicas:
        if self._is_closed:
            raise ServiceClosedError("the service is shutting down")
        if self._replicas is None:
            raise EngineUnavailableError(f"the engine is starting: {_LOADING}")
        return self._replicas

    def _state(self, statuses: Sequence[EngineStatus]) -> tuple[EngineState, str]:
        if self._is_closed:
            return EngineState.CLOSED, "the service is shutting down"
        if self.info is None:
            return EngineState.STARTING, _LOADING
        if any(status.state is EngineState.READY for status in statuses):
            return EngineState.READY, ""
        return EngineState.RESTARTING, statuses[0].detail if statuses else _NONE_LEFT

    def _note_loss(self, error: ReplicaLostError, *, is_broken: bool) -> None:
        self._last_failure = str(error)
        self._num_broken += is_broken
        logger.error("%s", error)

    async def _watch(self) -> None:
        while True:
            try:
                self._take(await self._connected().reports())
            except Exception:  # the boundary that keeps the watch going
                logger.exception("the replicas could not be asked how they are")
            await asyncio.sleep(ASK_EVERY_S if self._reports else ASK_AT_FIRST_EVERY_S)

    def _take(self, reports: Sequence[ReplicaReport]) -> None:
        known = {report.replica: report for report in reports}
        gone = self._reports.keys() - known.keys()
        for name in gone:
            logger.warning("the replica %s is gone", name)
        self._num_lost += len(gone)
        self._reports = known
        if self.info is None and reports:
            self.info = reports[0].info
            assert self._ready is not None
            if not self._ready.done():
                self._ready.set_result(self.info)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _add_up(statuses: Iterable[EngineStatus]) -> dict[str, CacheCounters]:
    total: dict[str, CacheCounters] = {}
    for status in statuses:
        for name, counters in status.caches.items():
            before = total.get(name, CacheCounters(0, 0, 0, 0, 0, 0))
            total[name] = CacheCounters(
                hits=before.hits + counters.hits,
                misses=before.misses + counters.misses,
                evictions=before.evictions + counters.evictions,
                entries=before.entries + counters.entries,
                size_bytes=before.size_bytes + counters.size_bytes,
                budget_bytes=before.budget_bytes + counters.budget_bytes,
            )
    return total
