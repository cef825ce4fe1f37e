from __future__ import annotations

import threading

import numpy as np
import pytest

from backend.telemetry.rolling import RollingWindow, WindowSummary


def filled(values: list[float], max_values: int = 100) -> RollingWindow:
    window = RollingWindow(max_values)
    for value in values:
        window.add(value)
    return window


def test_an_empty_window_knows_nothing_rather_than_zero() -> None:
    assert RollingWindow(5).summary() == WindowSummary(count=0)
    assert RollingWindow(5).summary().avg is None


def test_one_value_is_everything() -> None:
    assert filled([2.5]).summary() == WindowSummary(1, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5)


def test_figures_agree_with_numpy() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 97).tolist()
    summary = filled(values).summary()
    assert summary.count == 97
    assert summary.last == values[-1]
    assert summary.min == min(values)
    assert summary.max == max(values)
    assert summary.avg == pytest.approx(np.mean(values))
    assert summary.p50 == pytest.approx(np.percentile(values, 50))
    assert summary.p95 == pytest.approx(np.percentile(values, 95))


def test_old_values_are_forgotten() -> None:
    summary = filled([1000.0, 1.0, 2.0, 3.0], max_values=3).summary()
    assert (summary.count, summary.max, summary.avg) == (3, 3.0, 2.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_and_spoils_nothing(bad: float) -> None:
    window = filled([1.0])
    with pytest.raises(ValueError, match="finite"):
        window.add(bad)
    assert window.summary().avg == 1.0


@pytest.mark.parametrize("max_values", [0, -1])
def test_a_window_has_room(max_values: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RollingWindow(max_values)


def test_many_threads_lose_nothing() -> None:
    window = RollingWindow(10_000)

    def add_and_read() -> None:
        for _ in range(1_000):
            window.add(1.0)
            window.summary()

    threads = [threading.Thread(target=add_and_read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert window.summary().count == 2_000
