"""Known prompts: what is spoken does not change, and the memory stays bounded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.core.settings import read_settings
from backend.core.types import SamplingParams, Turn
from backend.engine.prefix_cache import PrefixCache
from backend.models.prompt import build_prompt, turn_ends
from backend.models.tokenizer import Tokenizer
from backend.opt_engine import OptimizedEngine

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
DRAWN = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=11)
TURNS = [
    Turn("Good morning.", np.arange(8 * 12, dtype=np.int32).reshape(8, 12) % 512),
    Turn("How are you?", np.arange(8 * 9, dtype=np.int32).reshape(8, 9) * 7 % 512),
]


def load(megabytes: int) -> OptimizedEngine:
    settings = read_settings(None, device="cpu", cpu_threads=1, prefix_cache_mb=megabytes)
    return OptimizedEngine.load(settings, POCKET)


def speak(engine: OptimizedEngine, text: str, turns: list[Turn]) -> list[list[int]]:
    slot = engine.prefill(text, turns, DRAWN)
    results = [engine.decode_step([slot])[0] for _ in range(6)]
    engine.release(slot)
    return [result.codes.tolist() for result in results if result.codes is not None]


def test_what_is_spoken_from_the_cache_is_what_is_spoken_without_it():
    engine, without = load(128), load(0)
    cold = speak(engine, "The quick brown fox.", TURNS)
    assert engine.cache_counters()["prefix_kv"].hits == 0
    assert speak(engine, "The quick brown fox.", TURNS) == cold
    assert engine.cache_counters()["prefix_kv"].hits == 2
    assert speak(without, "The quick brown fox.", TURNS) == cold
    assert without.cache_counters()["prefix_kv"].entries == 0
    # the first turn is known, the second is another
    turns = [TURNS[0], TURNS[0]]
    mixed = speak(engine, "We walked.", turns)
    assert mixed == speak(without, "We walked.", turns)
    counters = engine.cache_counters()["prefix_kv"]
    assert (counters.hits, counters.misses, counters.entries) == (3, 3, 3)
    assert engine.clear_caches() == {"prefix_kv": 3}
    assert speak(engine, "The quick brown fox.", TURNS) == cold
    assert len(cold) == 6
    engine.close()
    without.close()


def test_warm_up_leaves_no_entry_and_no_count():
    engine = load(8)
    engine.warm_up()
    counters = engine.cache_counters()["prefix_kv"]
    assert (counters.entries, counters.misses, counters.budget_bytes) == (0, 0, 8 << 20)
    engine.close()


def entry(value: float) -> tuple[torch.Tensor, ...]:
    return torch.full((2, 1, 1, 4, 1), float(value)), torch.full(
        (2, 1, 1), float(value)
    )  # 40 bytes


def test_the_least_recently_used_entry_goes_first():
    cache = PrefixCache(100)
    cache.put(b"a", entry(1))
    cache.put(b"b", entry(2))
    assert cache.get(b"a") is not None
    cache.put(b"c", entry(3))
    assert cache.get(b"b") is None
    kept = cache.get(b"a")
    assert kept is not None
    assert all(torch.equal(*pair) for pair in zip(kept, entry(1), strict=True))
    counters = cache.counters
    assert (counters.hits, counters.misses, counters.evictions) == (2, 1, 1)
    assert (counters.entries, counters.size_bytes) == (2, 80)


@pytest.mark.parametrize("budget_bytes", [0, 39])
def test_what_exceeds_the_budget_is_not_kept(budget_bytes: int):
    cache = PrefixCache(budget_bytes)
    cache.put(b"a", entry(1))
    assert cache.get(b"a") is None
    assert cache.counters.size_bytes == 0


def test_an_entry_is_a_copy():
    cache, kv = PrefixCache(100), entry(1)
    cache.put(b"a", kv)
    kv[0].zero_()
    kept = cache.get(b"a")
    assert kept is not None
    assert all(torch.equal(*pair) for pair in zip(kept, entry(1), strict=True))


def test_turns_end_where_the_prompts_rows_say():
    tokenizer = Tokenizer.from_directory(POCKET)
    rows = build_prompt(tokenizer, "Hello.", TURNS, 8)
    ends = turn_ends(tokenizer, TURNS)
    assert [int(rows[0, end - 1]) for end in ends] == [tokenizer.im_end_id] * 2
    assert turn_ends(tokenizer, []) == []
