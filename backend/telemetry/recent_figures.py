"""The figures of the last requests: rolling average, smallest, largest, p50 and p95."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backend.telemetry.recent import Stage
from backend.telemetry.rolling import RollingWindow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from backend.telemetry.rolling import WindowSummary

_FIGURES = ("avg", "min", "max", "p50", "p95")
LATENCY = {
    "ttfa_s": ("tts_recent_ttfa_seconds", "Time to first audio of the last streams"),
    "rtf": ("tts_recent_rtf", "Compute seconds per second of speech of the last requests"),
    "total_s": ("tts_recent_request_seconds", "Duration of the last requests"),
    "queue_wait_s": ("tts_recent_queue_wait_seconds", "Time in the queue of the last requests"),
}
LOAD = {
    "queue_depth": ("tts_recent_queue_depth", "Requests that waited, at each of the last chunks"),
    "batch_size": ("tts_recent_batch_size", "Requests that spoke, at each of the last chunks"),
}


class RecentFigures(Collector):
    """Windows of values, as JSON and as Prometheus families. Any thread may call anything.

    Args:
        window: Values that each window looks back on.
    """

    def __init__(self, window: int) -> None:
        self._named = {name: RollingWindow(window) for name in (*LATENCY, *LOAD)}
        self._stages = {stage: RollingWindow(window) for stage in Stage}

    def add(self, name: str, value: float | None) -> None:
        """Take a value of a name of ``LATENCY`` or ``LOAD``; None is no value."""
        if value is not None:
            self._named[name].add(value)

    def add_stage(self, stage: Stage, spent_s: float) -> None:
        """Take the time of one stage of one request."""
        self._stages[stage].add(spent_s)

    def describe(self) -> Iterator[Metric]:
        """Tell the registry nothing beforehand; names are checked by a test."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give every window; one without values leaves no sample."""
        for key, (name, documentation) in {**LATENCY, **LOAD}.items():
            family = GaugeMetricFamily(name, documentation, labels=["figure"])
            _add_figures(family, [], self._named[key].summary())
            yield family
        family = GaugeMetricFamily(
            "tts_recent_stage_seconds",
            "Time in each stage of the last requests",
            labels=["stage", "figure"],
        )
        for stage, window in self._stages.items():
            _add_figures(family, [stage.value], window.summary())
        yield family

    def as_json(self) -> dict[str, Any]:
        """Give ``latency``, ``load`` and ``stages_s`` as plain JSON values."""
        return {
            "latency": {name: asdict(self._named[name].summary()) for name in LATENCY},
            "load": {name: asdict(self._named[name].summary()) for name in LOAD},
            "stages_s": {s.value: asdict(w.summary()) for s, w in self._stages.items()},
        }


def _add_figures(family: GaugeMetricFamily, labels: list[str], summary: WindowSummary) -> None:
    for figure in _FIGURES:
        value = getattr(summary, figure)
        if value is not None:
            family.add_metric([*labels, figure], value)
