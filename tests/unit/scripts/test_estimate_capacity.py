from __future__ import annotations

from scripts.estimate_capacity import needs, simulate


def test_the_arithmetic_leaves_a_quarter_to_spare() -> None:
    found = needs(10_000, per_gpu=100, per_api=200, voices=1)
    assert (found.gpus, found.api_processes) == (134, 67)
    assert round(found.gbit_per_s, 1) == 7.1


def test_routing_by_voice_knows_more_prompts_and_keeps_its_bound() -> None:
    by_voice, balanced = (
        simulate(8, 20, by_voice=way, num_voices=1000, remembered=30, num_streams=6000)
        for way in (True, False)
    )
    assert by_voice.known_share > balanced.known_share + 0.2
    assert by_voice.worst_load < 2.2
    assert balanced.spilled_share > by_voice.spilled_share


def test_a_simulation_can_be_repeated() -> None:
    once, again = (simulate(4, 10, by_voice=True, num_streams=600) for _ in range(2))
    assert once == again
