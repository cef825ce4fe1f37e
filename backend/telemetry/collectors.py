"""Numbers that other parts keep, read at the moment somebody asks for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from backend.core.types import EngineStatus
    from backend.telemetry.nvml import GpuReading


class CacheReading(Protocol):
    """What a cache holds and has done since the start."""

    @property
    def hits(self) -> int:
        """Times it had the answer."""
        ...

    @property
    def misses(self) -> int:
        """Times it had not."""
        ...

    @property
    def evictions(self) -> int:
        """Entries dropped for newer ones."""
        ...

    @property
    def entries(self) -> int:
        """Entries now."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory of the entries."""
        ...

    @property
    def budget_bytes(self) -> int:
        """Most memory it may take."""
        ...


class CardReading(Protocol):
    """What is known about the card without asking its driver."""

    @property
    def latest(self) -> GpuReading | None:
        """The last reading."""
        ...

    @property
    def joules(self) -> float | None:
        """Energy drawn while there was work."""
        ...


class CollectedReadings(Collector):
    """Caches, engine and card, as Prometheus families and as JSON.

    Attributes:
        caches: How to read each cache, by name.
        engine: How to read the engine, or None before there is one.
        gpu: How to read the card, or None when nobody looks at one.
        card: What is known about the card, or None when nobody looks at one.

    Args:
        audio_s: Gives the seconds of speech handed out so far.
    """

    def __init__(self, audio_s: Callable[[], float] = lambda: 0.0) -> None:
        self._audio_s = audio_s
        self.card: CardReading | None = None
        self.caches: dict[str, Callable[[], CacheReading]] = {}
        self.engine: Callable[[], EngineStatus] | None = None
        self.gpu: Callable[[], GpuReading] | None = None

    def describe(self) -> Iterator[Metric]:
        """Tell the registry nothing beforehand: what there is depends on who is watched."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read everything that is watched; unknown values leave no sample."""
        yield from self._cache_families()
        if self.engine is not None:
            status = self.engine()
            yield _gauge("tts_queue_depth", "Requests that wait for a slot", status.num_waiting)
            yield _gauge("tts_active_sequences", "Requests that hold a slot", status.num_running)
            yield _gauge("tts_max_sequences", "Slots", status.max_running)
            yield _gauge("tts_device_memory_bytes", "Device memory in use", status.memory_bytes)
            yield _gauge(
                "tts_device_memory_peak_bytes", "Most device memory", status.peak_memory_bytes
            )
            yield _counter(
                "tts_engine_restarts", "Starts of the engine after it had died", status.restarts
            )
            yield _counter(
                "tts_streams_broken", "Streams cut by the engine's death", status.streams_broken
            )
        if self.gpu is not None:
            yield from _gpu_families(self.gpu())
        joules, per_audio_s = self._energy()
        yield _gauge("tts_energy_joules", "Energy drawn while there was work", joules)
        yield _gauge(
            "tts_energy_joules_per_audio_second", "Energy for one second of speech", per_audio_s
        )

    def as_json(self) -> dict[str, Any]:
        """Give ``caches``, ``engine`` and ``gpu`` as plain JSON values."""
        status = self.engine() if self.engine is not None else None
        return {
            "caches": {name: _cache_json(read) for name, read in self._cache_readings()},
            "engine": None
            if status is None
            else {
                "state": status.state.value,
                "queue_depth": status.num_waiting,
                "active_sequences": status.num_running,
                "max_sequences": status.max_running,
                "memory_bytes": status.memory_bytes,
                "peak_memory_bytes": status.peak_memory_bytes,
                "restarts": status.restarts,
                "streams_broken": status.streams_broken,
                "last_failure": status.last_failure,
            },
            "gpu": self.gpu().as_json() if self.gpu is not None else None,
            "energy": dict(zip(("joules", "joules_per_audio_s"), self._energy(), strict=True)),
        }

    def _energy(self) -> tuple[float | None, float | None]:
        joules = self.card.joules if self.card is not None else None
        audio_s = self._audio_s()
        return joules, joules / audio_s if joules is not None and audio_s else None

    def _cache_readings(self) -> Iterator[tuple[str, CacheReading]]:
        """The service's caches, then the engine's own."""
        for name, read in self.caches.items():
            yield name, read()
        if self.engine is not None:
            yield from self.engine().caches.items()

    def _cache_families(self) -> Iterator[Metric]:
        label = ["cache"]
        hits = CounterMetricFamily("tts_cache_hits", "Answers a cache had", labels=label)
        misses = CounterMetricFamily("tts_cache_misses", "Answers a cache had not", labels=label)
        evictions = CounterMetricFamily(
            "tts_cache_evictions", "Entries dropped for newer ones", labels=label
        )
        entries = GaugeMetricFamily("tts_cache_entries", "Entries of a cache", labels=label)
        size = GaugeMetricFamily("tts_cache_bytes", "Memory of a cache", labels=label)
        budget = GaugeMetricFamily(
            "tts_cache_budget_bytes", "Most memory a cache may take", labels=label
        )
        for name, reading in self._cache_readings():
            hits.add_metric([name], reading.hits)
            misses.add_metric([name], reading.misses)
            evictions.add_metric([name], reading.evictions)
            entries.add_metric([name], reading.entries)
            size.add_metric([name], reading.size_bytes)
            budget.add_metric([name], reading.budget_bytes)
        yield from (hits, misses, evictions, entries, size, budget)


def _cache_json(reading: CacheReading) -> dict[str, Any]:
    asked = reading.hits + reading.misses
    return {
        "hits": reading.hits,
        "misses": reading.misses,
        "evictions": reading.evictions,
        "entries": reading.entries,
        "size_bytes": reading.size_bytes,
        "budget_bytes": reading.budget_bytes,
        "hit_ratio": reading.hits / asked if asked else None,
    }


def _gpu_families(reading: GpuReading) -> Iterator[Metric]:
    yield _gauge("gpu_available", "Whether a card can be read", int(reading.available))
    yield _gauge(
        "gpu_utilization_percent", "Time in which a kernel ran", reading.utilization_percent
    )
    yield _gauge("gpu_memory_used_bytes", "Memory of all programs", reading.memory_used_bytes)
    yield _gauge("gpu_memory_total_bytes", "Memory of the card", reading.memory_total_bytes)
    yield _gauge("gpu_power_watts", "Power drawn", reading.power_w)
    yield _gauge("gpu_temperature_celsius", "Temperature of the chip", reading.temperature_c)


def _counter(name: str, documentation: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, value=value)


def _gauge(name: str, documentation: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation)
    if value is not None:
        family.add_metric([], value)
    return family
