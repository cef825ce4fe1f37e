from __future__ import annotations

import argparse

import pytest

from scripts.benchmark_cluster import _layouts, efficiencies, layout_of
from scripts.load.crowd import _part


def level(rate: float) -> dict[str, dict[str, float]]:
    return {"at_once": {"audio_s_per_s": rate}}


def test_a_crowd_is_shared_out_without_rest() -> None:
    assert [_part(10, 3, idx) for idx in range(3)] == [4, 3, 3]
    assert sum(_part(128, 7, idx) for idx in range(7)) == 128


def test_layouts_are_copies_of_the_engine_and_of_the_api() -> None:
    assert layout_of("4x2") == (4, 2)
    assert layout_of("3") == (3, 1)
    assert layout_of("plain") == (1, 1)
    assert _layouts("1x1,plain") == ["1x1", "plain"]


@pytest.mark.parametrize("text", ["0x1", "2x0"])
def test_a_layout_without_copies_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        _layouts(text)


def test_efficiency_is_against_one_replica_on_ray() -> None:
    found = efficiencies({"1x1": level(100.0), "2x2": level(190.0), "plain": level(120.0)})
    assert found == {"1x1": 1.0, "2x2": 0.95, "plain": 1.2}
    assert efficiencies({"2x1": level(100.0)}) == {}
