from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.types import SamplingParams, Turn
from backend.service.cache import (
    ENTRY_OVERHEAD_BYTES,
    ByteBudgetLru,
    VoiceCodesCache,
    cache_budgets,
    semantic_key,
    voice_codes_key,
)
from tests.fakes import FAKE_INFO

CODES = np.arange(6, dtype=np.int32).reshape(3, 2)


def room_for(entries: int, num_bytes: int) -> int:
    return entries * (num_bytes + ENTRY_OVERHEAD_BYTES)


def test_least_recently_used_goes_first():
    lru: ByteBudgetLru[str] = ByteBudgetLru(room_for(2, 10))
    lru.put("a", "A", 10)
    lru.put("b", "B", 10)
    assert lru.get("a") == "A"
    lru.put("c", "C", 10)
    assert (lru.get("a"), lru.get("b"), lru.get("c")) == ("A", None, "C")


def test_counters_tell_what_happened():
    lru: ByteBudgetLru[str] = ByteBudgetLru(room_for(1, 10))
    lru.get("a")
    lru.put("a", "A", 10)
    lru.get("a")
    lru.put("b", "B", 10)
    counters = lru.counters
    assert (counters.hits, counters.misses, counters.evictions) == (1, 1, 1)
    assert (counters.entries, counters.size_bytes) == (1, room_for(1, 10))
    assert counters.budget_bytes == room_for(1, 10)


def test_replacing_an_entry_does_not_count_its_bytes_twice():
    lru: ByteBudgetLru[str] = ByteBudgetLru(room_for(1, 10))
    lru.put("a", "A", 10)
    lru.put("a", "B", 10)
    assert lru.get("a") == "B"
    assert (lru.counters.size_bytes, lru.counters.evictions) == (room_for(1, 10), 0)


def test_entry_beyond_the_budget_is_not_kept_and_evicts_nothing():
    lru: ByteBudgetLru[str] = ByteBudgetLru(room_for(1, 10))
    lru.put("a", "A", 10)
    lru.put("b", "B", 1000)
    assert (lru.get("a"), lru.get("b")) == ("A", None)


def test_no_budget_keeps_nothing():
    lru: ByteBudgetLru[str] = ByteBudgetLru(0)
    lru.put("a", "A", 0)
    assert lru.get("a") is None


def test_clear_drops_entries_and_keeps_counters():
    lru: ByteBudgetLru[str] = ByteBudgetLru(1000)
    lru.put("a", "A", 10)
    lru.get("a")
    assert lru.clear() == 1
    assert (lru.counters.entries, lru.counters.size_bytes, lru.counters.hits) == (0, 0, 1)


def test_limit_is_shared_a_quarter_to_three_quarters():
    assert cache_budgets(256) == (64 << 20, 192 << 20)
    assert cache_budgets(0) == (0, 0)


class CountedEncoder:
    """Encodes when ``may_encode`` is set, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.has_begun = asyncio.Event()
        self.may_encode = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> NDArray[np.int32]:
        self.calls += 1
        self.has_begun.set()
        await self.may_encode.wait()
        if self.error is not None:
            raise self.error
        return CODES


async def test_second_encode_of_the_same_recording_comes_from_the_cache():
    cache, encode = VoiceCodesCache(10_000), CountedEncoder()
    encode.may_encode.set()
    assert await cache.get_or_encode("key", encode) == (CODES, False)
    assert await cache.get_or_encode("key", encode) == (CODES, True)
    assert encode.calls == 1


async def test_requests_at_the_same_time_share_one_encode():
    cache, encode = VoiceCodesCache(10_000), CountedEncoder()
    tasks = [asyncio.create_task(cache.get_or_encode("key", encode)) for _ in range(5)]
    await encode.has_begun.wait()
    encode.may_encode.set()
    results = await asyncio.gather(*tasks)
    assert encode.calls == 1
    assert sorted(is_hit for _, is_hit in results) == [False, True, True, True, True]


async def test_shared_encode_survives_the_one_who_began_it():
    cache, encode = VoiceCodesCache(10_000), CountedEncoder()
    first = asyncio.create_task(cache.get_or_encode("key", encode))
    await encode.has_begun.wait()
    second = asyncio.create_task(cache.get_or_encode("key", encode))
    await asyncio.sleep(0)
    first.cancel()
    encode.may_encode.set()
    codes, _ = await second
    assert codes is CODES
    assert first.cancelled()


async def test_failure_reaches_everyone_and_is_not_kept():
    cache, encode = VoiceCodesCache(10_000), CountedEncoder()
    encode.error = RuntimeError("codec")
    tasks = [asyncio.create_task(cache.get_or_encode("key", encode)) for _ in range(3)]
    await encode.has_begun.wait()
    encode.may_encode.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["codec"] * 3
    encode.error = None
    assert await cache.get_or_encode("key", encode) == (CODES, False)


def test_voice_key_depends_on_samples_and_revision():
    samples = np.linspace(0, 1, 100, dtype=np.float32)
    key = voice_codes_key(samples, FAKE_INFO)
    assert key == voice_codes_key(samples.copy(), FAKE_INFO)
    assert key != voice_codes_key(samples[:-1], FAKE_INFO)
    assert key != voice_codes_key(samples, replace(FAKE_INFO, revision="other"))


CHANGES: dict[str, Callable[[SamplingParams], SamplingParams]] = {
    field.name: lambda params, name=field.name: replace(params, **{name: getattr(params, name) + 1})
    for field in fields(SamplingParams)
}


@pytest.mark.parametrize("name", CHANGES)
def test_semantic_key_depends_on_every_sampling_parameter(name: str):
    params = SamplingParams()
    assert semantic_key("hi", (), params, FAKE_INFO) != semantic_key(
        "hi", (), CHANGES[name](params), FAKE_INFO
    )


def test_semantic_key_depends_on_text_turns_and_model():
    turn = Turn("I am.", CODES)
    keys = {
        semantic_key("hi", (turn,), SamplingParams(), FAKE_INFO),
        semantic_key("ho", (turn,), SamplingParams(), FAKE_INFO),
        semantic_key("hi", (), SamplingParams(), FAKE_INFO),
        semantic_key("hi", (turn, turn), SamplingParams(), FAKE_INFO),
        semantic_key("hi", (Turn("I was.", CODES),), SamplingParams(), FAKE_INFO),
        semantic_key("hi", (Turn("I am.", CODES + 1),), SamplingParams(), FAKE_INFO),
        semantic_key("hi", (turn,), SamplingParams(), replace(FAKE_INFO, revision="b")),
        semantic_key("hi", (turn,), SamplingParams(), replace(FAKE_INFO, precision="bf16")),
    }
    assert len(keys) == 8
