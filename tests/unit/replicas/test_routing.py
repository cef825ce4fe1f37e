from __future__ import annotations

import random
from collections import Counter

import numpy as np

from backend.core.types import Turn
from backend.replicas.protocol import voice_key
from backend.replicas.routing import choose, preference

REPLICAS = [f"replica-{idx}" for idx in range(8)]
VOICES = [f"voice-{idx}" for idx in range(2000)]


def turn(text: str, first_code: int = 1) -> Turn:
    return Turn(text, np.full((3, 4), first_code, dtype=np.int32))


def test_a_voice_wants_the_same_order_whoever_asks() -> None:
    shuffled = random.Random(1).sample(REPLICAS, len(REPLICAS))
    assert all(preference(voice, REPLICAS) == preference(voice, shuffled) for voice in VOICES[:50])


def test_voices_are_spread_evenly() -> None:
    owners = Counter(preference(voice, REPLICAS)[0] for voice in VOICES)
    assert set(owners) == set(REPLICAS)
    assert max(owners.values()) < 1.3 * len(VOICES) / len(REPLICAS)


def test_only_the_voices_of_a_lost_replica_move() -> None:
    lost, *left = REPLICAS
    for voice in VOICES:
        before, after = preference(voice, REPLICAS), preference(voice, left)
        assert after[0] == (before[1] if before[0] == lost else before[0])


def test_an_idle_cluster_sends_a_voice_home() -> None:
    idle = dict.fromkeys(REPLICAS, 0)
    assert all(choose(voice, idle, 1) == preference(voice, REPLICAS)[0] for voice in VOICES[:50])


def test_a_voice_goes_to_its_second_replica_when_the_first_has_too_much() -> None:
    first, second, *_ = preference("popular", REPLICAS)
    loads = dict.fromkeys(REPLICAS, 8)
    assert choose("popular", {**loads, first: 9}, 1) == first
    assert choose("popular", {**loads, first: 30}, 1) == second


def test_a_replica_with_free_slots_takes_its_voices_however_idle_the_others_are() -> None:
    first = preference("popular", REPLICAS)[0]
    loads = {**dict.fromkeys(REPLICAS, 0), first: 5}
    assert choose("popular", loads, 6) == first
    assert choose("popular", loads, 5) != first


def test_one_popular_voice_is_served_by_all_under_load() -> None:
    loads = dict.fromkeys(REPLICAS, 0)
    for _ in range(800):
        chosen = choose("popular", loads, 4)
        assert chosen is not None
        loads[chosen] += 1
    assert max(loads.values()) <= 1.25 * 100 + 2


def test_without_a_voice_or_a_replica_there_is_no_choice() -> None:
    assert choose("", dict.fromkeys(REPLICAS, 0), 1) is None
    assert choose("voice", {}, 1) is None


def test_a_voice_is_named_by_its_first_recording_alone() -> None:
    first = turn("Hello.")
    assert voice_key((first,)) == voice_key((first, turn("What was said before.", 9)))
    assert voice_key((first,)) != voice_key((turn("Hello!"),))
    assert voice_key((first,)) != voice_key((turn("Hello.", 2),))
    assert voice_key(()) == ""
