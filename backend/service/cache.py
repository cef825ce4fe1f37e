"""Caches that are bounded in bytes, and the two that the service keeps.

Everything here belongs to the event loop: no locks, no calls from other threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import OrderedDict
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from backend.core.types import CacheCounters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from backend.core.types import EngineInfo, FinishReason, SamplingParams, Turn

_Value = TypeVar("_Value")

ENTRY_OVERHEAD_BYTES = 256
"""Charged for key, node and array header, so that many tiny entries cannot exceed the budget."""

BYTES_PER_MIB = 1 << 20
VOICE_CODES_SHARE = 0.25


class ByteBudgetLru(Generic[_Value]):
    """Keep what was used last, up to a number of bytes. Confined to one thread.

    An entry larger than the whole budget is not kept; a budget of 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[str, tuple[_Value, int]] = OrderedDict()
        self._size_bytes = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    def get(self, key: str) -> _Value | None:
        """Give the value and mark it as used, or None; either is counted."""
        entry = self._entries.get(key)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: str, value: _Value, num_bytes: int) -> None:
        """Keep ``value``, which takes ``num_bytes``, and drop the least recently used for it."""
        self._drop(key)
        cost = num_bytes + ENTRY_OVERHEAD_BYTES
        if cost > self._budget_bytes:
            return
        while self._size_bytes + cost > self._budget_bytes:
            self._drop(next(iter(self._entries)))
            self._evictions += 1
        self._entries[key] = (value, cost)
        self._size_bytes += cost

    def clear(self) -> int:
        """Drop everything and give the number of entries that were there; counters stay."""
        count = len(self._entries)
        self._entries.clear()
        self._size_bytes = 0
        return count

    @property
    def counters(self) -> CacheCounters:
        """What the cache holds and has done."""
        return CacheCounters(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            entries=len(self._entries),
            size_bytes=self._size_bytes,
            budget_bytes=self._budget_bytes,
        )

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= entry[1]


class VoiceCodesCache:
    """Codes of uploaded recordings, so that the same recording is encoded once.

    Requests that bring the same recording at the same time share one encode.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.lru: ByteBudgetLru[NDArray[np.int32]] = ByteBudgetLru(budget_bytes)
        self._running: dict[str, asyncio.Future[NDArray[np.int32]]] = {}

    async def get_or_encode(
        self, key: str, encode: Callable[[], Awaitable[NDArray[np.int32]]]
    ) -> tuple[NDArray[np.int32], bool]:
        """Give the codes under ``key``; call ``encode`` when nobody has them or makes them.

        Returns:
            ``[K, F]`` int32 and True when they were there or already being made.

        Raises:
            Exception: Whatever ``encode`` raises, in every request that waited for it.
        """
        while (running := self._running.get(key)) is not None:
            await asyncio.wait([running])  # a waiter that is cancelled leaves the encode running
            if not running.cancelled():
                return running.result(), True
        cached = self.lru.get(key)
        if cached is not None:
            return cached, True
        mine: asyncio.Future[NDArray[np.int32]] = asyncio.get_running_loop().create_future()
        self._running[key] = mine
        try:
            codes = await encode()
        except Exception as error:
            mine.set_exception(error)
            mine.exception()  # read once, so that asyncio does not report it as forgotten
            raise
        else:
            mine.set_result(codes)
            self.lru.put(key, codes, codes.nbytes)
            return codes, False
        finally:
            del self._running[key]
            mine.cancel()  # has an effect only when this request was cancelled: the next encodes


@dataclass(frozen=True, slots=True)
class SpokenCodes:
    """A stretch of speech that was made before.

    Attributes:
        codes: ``[K, F]`` int32.
        finish_reason: Why it ended when it was made.
    """

    codes: NDArray[np.int32]
    finish_reason: FinishReason


class SemanticCache:
    """Codes of spoken texts: the same text in the same voice with the same seed costs no model."""

    def __init__(self, budget_bytes: int) -> None:
        self.lru: ByteBudgetLru[SpokenCodes] = ByteBudgetLru(budget_bytes)

    def get(self, key: str) -> SpokenCodes | None:
        """Give what was spoken under ``key``, or None; either is counted."""
        return self.lru.get(key)

    def put(self, key: str, spoken: SpokenCodes) -> None:
        """Keep a stretch that came to its end."""
        self.lru.put(key, spoken, spoken.codes.nbytes)


def cache_budgets(cache_limit_mib: int) -> tuple[int, int]:
    """Split ``CACHE_LIMIT`` into bytes for voice codes (a quarter) and for spoken texts."""
    total = cache_limit_mib * BYTES_PER_MIB
    voice_codes = int(total * VOICE_CODES_SHARE)
    return voice_codes, total - voice_codes


def voice_codes_key(samples: NDArray[np.float32], info: EngineInfo) -> str:
    """Name the codes of ``[S]`` float32 samples under the codec of ``info``."""
    digest = hashlib.sha256(info.revision.encode())
    digest.update(np.ascontiguousarray(samples).tobytes())
    return digest.hexdigest()


def semantic_key(
    text: str, turns: Sequence[Turn], sampling: SamplingParams, info: EngineInfo
) -> str:
    """Name the codes that ``info``'s model makes for this text, voice, sampling and seed."""
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(struct.pack("<q", len(part)))  # lengths keep "ab"+"c" from being "a"+"bc"
        digest.update(part)

    for fact in (info.revision, info.device, info.precision, text):
        add(fact.encode())
    for turn in turns:
        add(turn.text.encode())
        add(np.ascontiguousarray(turn.codes).tobytes())
    add(repr(astuple(sampling)).encode())
    return digest.hexdigest()
