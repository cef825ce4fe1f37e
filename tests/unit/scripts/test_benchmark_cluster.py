from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scripts import benchmark_cluster
from scripts.benchmark_cluster import _layouts, efficiencies, layout_of, main
from scripts.load.crowd import Crowd, _part
from scripts.load.server import ServerFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CROWD_FIGURES: dict[str, Any] = {
    "streams": 64,
    "audio_s_per_s": 50.0,
    "ttfa_s": {"p50": 0.1, "p95": 0.2},
    "underruns": 0,
    "errors": {},
}


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
    found = efficiencies(
        {"1x1": level(100.0), "2x2": level(190.0), "plain": level(120.0)}, "at_once"
    )
    assert found == {"1x1": 1.0, "2x2": 0.95, "plain": 1.2}
    assert efficiencies({"2x1": level(100.0)}, "at_once") == {}


def test_a_mode_that_was_not_measured_has_no_efficiency() -> None:
    assert efficiencies({"1x1": level(100.0), "2x2": {}}, "at_once") == {"1x1": 1.0}
    assert efficiencies({"1x1": level(100.0)}, "real_time") == {}


def test_a_layout_that_fails_is_told_and_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logs: list[Path | None] = []
    limits: list[float] = []

    @contextmanager
    def server(
        settings: dict[str, str], module: str, keep_log: Path | None, start_limit_s: float
    ) -> Iterator[str]:
        logs.append(keep_log)
        limits.append(start_limit_s)
        if settings["CLUSTER_REPLICAS"] == "2":
            raise ServerFailedError("no second card")
        yield "http://here"

    monkeypatch.setattr(benchmark_cluster, "own_server", server)
    crowds: list[Crowd] = []

    def crowd_run(crowd: Crowd) -> dict[str, Any]:
        crowds.append(crowd)
        return CROWD_FIGURES

    monkeypatch.setattr(benchmark_cluster, "run_crowd", crowd_run)
    monkeypatch.setattr(
        benchmark_cluster,
        "_get",
        lambda url, path: {"queue": {"max_running": 96}, "voices": [{"name": "a"}]},
    )
    record = tmp_path / "record.json"
    arguments = [
        "scaling",
        "--warm-up",
        "--layouts",
        "2x2,1x1",
        "--layout-limit-s",
        "7",
        "--record",
        str(record),
    ]
    assert main([*arguments, "--logs", str(tmp_path)]) == 0
    written = json.loads(record.read_text("utf-8"))
    assert written["failed"] == {"2x2": "no second card"}
    assert written["efficiency"] == {"real_time": {"1x1": 1.0}, "at_once": {"1x1": 1.0}}
    assert set(written["levels"]) == {"1x1"}
    assert logs == [tmp_path / "server_2x2.log", tmp_path / "server_1x1.log"]
    assert limits == [7.0, 7.0]
    assert len({crowd.seed for crowd in crowds}) == 3  # nobody asks for what is known already
    assert main(["scaling", "--layouts", "2x2"]) == 1
