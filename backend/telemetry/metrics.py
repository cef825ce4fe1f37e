"""Every metric of the service, declared once, in its own registry.

Numbers that somebody else keeps (caches, queue, card) are not copied here: a collector reads them
when they are asked for, so they cannot drift apart.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backend.telemetry.collectors import CacheReading, CardReading, CollectedReadings
from backend.telemetry.recent import RequestRecord, RequestStatus, Stage
from backend.telemetry.recent_figures import RecentFigures

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.types import EngineStatus
    from backend.telemetry.nvml import GpuReading

PROMETHEUS_MEDIA_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
"""``Content-Type`` of ``Metrics.prometheus_text``."""

DEFAULT_WINDOW = 256
"""Requests that the averages and percentiles of ``Metrics.snapshot`` look back on."""

_TTFA_BUCKETS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_TOTAL_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_RTF_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 4, 8)
_STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """All measurements of one service. Any thread may call anything at any time.

    Args:
        window: Requests that averages and percentiles look back on.
        clock: Seconds that only go forward; tests pass their own.
    """

    def __init__(
        self, *, window: int = DEFAULT_WINDOW, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._requests: Tally[RequestStatus] = Tally()
        self._errors: Tally[str] = Tally()
        self._troubles: Tally[tuple[str, str]] = Tally()
        self._in_progress = 0
        self._audio_s = 0.0
        self._underruns = 0
        self._figures = RecentFigures(window)
        self._readings = CollectedReadings(lambda: self._audio_s)
        self._registry = CollectorRegistry()
        self._registry.register(self._readings)
        self._registry.register(self._figures)
        self._declare()

    def _declare(self) -> None:
        registry = self._registry
        self._requests_total = Counter(
            "tts_requests", "Requests that ended, by how", ["status"], registry=registry
        )
        self._errors_total = Counter(
            "tts_errors",
            "Requests that ended with an error, by its class",
            ["error"],
            registry=registry,
        )
        self._troubles_total = Counter(
            "tts_speech_troubles",
            "Stretches of speech that went wrong, and what was done about it",
            ["trouble", "action"],
            registry=registry,
        )
        self._in_progress_gauge = Gauge(
            "tts_requests_in_progress", "Requests that have not ended", registry=registry
        )
        self._audio_total = Counter(
            "tts_audio_seconds", "Seconds of speech handed out", registry=registry
        )
        self._underruns_total = Counter(
            "tts_underruns",
            "Times that listeners of streams ran dry, by the scheduler's clock",
            registry=registry,
        )
        self._ttfa = Histogram(
            "tts_ttfa_seconds",
            "From the body read to the first audio byte",
            buckets=_TTFA_BUCKETS_S,
            registry=registry,
        )
        self._total = Histogram(
            "tts_request_seconds",
            "From the body read to the last byte",
            buckets=_TOTAL_BUCKETS_S,
            registry=registry,
        )
        self._rtf = Histogram(
            "tts_rtf",
            "Compute seconds per second of speech; below 1 is faster than real time",
            buckets=_RTF_BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "tts_stage_seconds",
            "Time in one stage of one request",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )

    def watch_cache(self, name: str, read: Callable[[], CacheReading]) -> None:
        """Show a cache under ``name``; ``read`` is called whenever metrics are asked for."""
        self._readings.caches[name] = read

    def watch_engine(self, read: Callable[[], EngineStatus]) -> None:
        """Show queue, slots and memory of the engine."""
        self._readings.engine = read

    def watch_gpu(self, read: Callable[[], GpuReading]) -> None:
        """Show the card."""
        self._readings.gpu = read

    def watch_card(self, card: CardReading) -> None:
        """Show what speech has cost in energy, and let requests know how busy the card is."""
        self._readings.card = card

    def request_started(self) -> None:
        """Count a request that now runs. Exactly one ``request_ended`` must follow."""
        with self._lock:
            self._in_progress += 1
        self._in_progress_gauge.inc()

    def request_ended(self, record: RequestRecord) -> None:
        """Count a request that was started, and everything its record says."""
        with self._lock:
            self._in_progress -= 1
            self._requests[record.status] += 1
            self._audio_s += record.audio_s or 0.0
            self._underruns += record.num_underruns or 0
            if record.error is not None:
                self._errors[record.error] += 1
        self._in_progress_gauge.dec()
        self._requests_total.labels(record.status.value).inc()
        if record.error is not None:
            self._errors_total.labels(record.error).inc()
        if record.audio_s:
            self._audio_total.inc(record.audio_s)
        if record.num_underruns:
            self._underruns_total.inc(record.num_underruns)
        self._observe(self._ttfa, "ttfa_s", record.ttfa_s)
        stages_s = record.stages_s or {}
        for stage, spent_s in stages_s.items():
            self._figures.add_stage(stage, spent_s)
            self._stages.labels(stage.value).observe(spent_s)
        self._figures.add("queue_wait_s", stages_s.get(Stage.QUEUE))
        if record.status is RequestStatus.OK:  # a broken-off request would flatter these
            self._observe(self._total, "total_s", record.total_s)
            self._observe(self._rtf, "rtf", record.rtf)

    def chunk_made(self) -> None:
        """Note that the engine gave sound: the moment to look at its queue and its batch."""
        if self._readings.engine is None:
            return
        status = self._readings.engine()
        self._figures.add("queue_depth", status.num_waiting)
        # the one whose chunk this is may have left its slot already
        self._figures.add("batch_size", max(1, status.num_running))

    def device_figures(self) -> tuple[int | None, int | None]:
        """Give the engine's peak memory in bytes and the card's utilization in percent.

        Never blocks; what is not known is None.
        """
        status = self._readings.engine() if self._readings.engine is not None else None
        card = self._readings.card.latest if self._readings.card is not None else None
        return (
            status.peak_memory_bytes if status is not None else None,
            card.utilization_percent if card is not None else None,
        )

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress, or the engine has work (jobs)."""
        status = self._readings.engine() if self._readings.engine is not None else None
        return self._in_progress > 0 or (status is not None and status.num_running > 0)

    def speech_went_wrong(self, trouble: str, action: str) -> None:
        """Count speech that was made again (``retried``) or ended early (``cut``), jobs' too."""
        with self._lock:
            self._troubles[trouble, action] += 1
        self._troubles_total.labels(trouble, action).inc()

    def request_rejected(self, error: str) -> None:
        """Count a request that was refused before it started, under the error's class name."""
        with self._lock:
            self._requests[RequestStatus.REJECTED] += 1
            self._errors[error] += 1
        self._requests_total.labels(RequestStatus.REJECTED.value).inc()
        self._errors_total.labels(error).inc()

    def snapshot(self) -> dict[str, Any]:
        """Give everything as plain JSON values. What is not known is None, never 0."""
        with self._lock:
            by_status = {status.value: self._requests[status] for status in RequestStatus}
            errors = dict(self._errors)
            troubles = dict(self._troubles)
            in_progress, audio_s = self._in_progress, self._audio_s
            underruns = self._underruns
        return {
            "uptime_s": self._clock() - self._started,
            "requests": {
                "total": sum(by_status.values()),
                "in_progress": in_progress,
                "by_status": by_status,
            },
            "errors": errors,
            "speech_troubles": [
                {"trouble": trouble, "action": action, "count": count}
                for (trouble, action), count in troubles.items()
            ],
            "audio_s": audio_s,
            "underruns": underruns,
            **self._figures.as_json(),
            **self._readings.as_json(),
        }

    def prometheus_text(self) -> bytes:
        """Give everything in Prometheus' text format (``PROMETHEUS_MEDIA_TYPE``)."""
        return generate_latest(self._registry)

    def _observe(self, histogram: Histogram, name: str, value: float | None) -> None:
        if value is not None:
            self._figures.add(name, value)
            histogram.observe(value)
