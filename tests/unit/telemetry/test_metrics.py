from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from backend.core.types import CacheCounters, EngineState, EngineStatus
from backend.telemetry.metrics import PROMETHEUS_MEDIA_TYPE, Metrics
from backend.telemetry.nvml import GpuReading
from backend.telemetry.recent import RequestRecord, RequestStatus, Stage

UNITS = ("_seconds", "_bytes", "_percent", "_watts", "_celsius")
COUNTED = {
    "tts_requests",
    "tts_errors",
    "tts_speech_troubles",
    "tts_recent_rtf",
    "tts_recent_queue_depth",
    "tts_recent_batch_size",
    "tts_energy_joules",
    "tts_energy_joules_per_audio_second",
    "tts_requests_in_progress",
    "tts_rtf",
    "tts_underruns",
    "tts_queue_depth",
    "tts_active_sequences",
    "tts_max_sequences",
    "tts_cache_hits",
    "tts_cache_misses",
    "tts_cache_evictions",
    "tts_engine_restarts",
    "tts_streams_broken",
    "tts_cache_entries",
    "gpu_available",
}


@dataclass
class FakeCache:
    hits: int = 3
    misses: int = 1
    evictions: int = 2
    entries: int = 5
    size_bytes: int = 640
    budget_bytes: int = 1024


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def record(status: RequestStatus = RequestStatus.OK, **facts: object) -> RequestRecord:
    return RequestRecord("r", status, started_at=1.0, **facts)  # type: ignore[arg-type]


def ended(metrics: Metrics, **facts: object) -> None:
    metrics.request_started()
    metrics.request_ended(record(**facts))  # type: ignore[arg-type]


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of the text, as ``name{labels}`` without buckets."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.prometheus_text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def watched() -> Metrics:
    metrics = Metrics()
    metrics.watch_cache("voice_codes", FakeCache)
    metrics.watch_engine(
        lambda: EngineStatus(
            EngineState.READY,
            num_running=2,
            num_waiting=7,
            max_running=4,
            memory_bytes=99,
            caches={"prefix_kv": CacheCounters(5, 2, 1, 3, 70, 128)},
        )
    )
    metrics.watch_gpu(lambda: GpuReading(available=True, power_w=70.5, temperature_c=44))
    return metrics


def test_deaths_of_the_engine_are_counted_in_both_forms() -> None:
    metrics = Metrics()
    metrics.watch_engine(
        lambda: EngineStatus(
            EngineState.RESTARTING, restarts=3, streams_broken=2, last_failure="killed"
        )
    )
    text = samples(metrics)
    assert text["tts_engine_restarts_total"] == 3
    assert text["tts_streams_broken_total"] == 2
    engine = metrics.snapshot()["engine"]
    assert (engine["state"], engine["restarts"], engine["streams_broken"]) == ("restarting", 3, 2)
    assert engine["last_failure"] == "killed"


def test_a_request_is_counted_in_both_forms() -> None:
    metrics = Metrics()
    ended(
        metrics,
        audio_s=4.0,
        total_s=2.0,
        ttfa_s=0.3,
        stages_s={Stage.PREFILL: 0.1, Stage.CODEC: 0.5},
    )
    snapshot = metrics.snapshot()
    assert snapshot["requests"]["total"] == 1
    assert snapshot["requests"]["by_status"]["ok"] == 1
    assert snapshot["audio_s"] == 4.0
    assert snapshot["latency"]["rtf"]["avg"] == 0.5
    assert snapshot["latency"]["ttfa_s"]["p95"] == 0.3
    assert snapshot["stages_s"]["prefill"]["avg"] == 0.1
    text = samples(metrics)
    assert text["tts_requests_total{status=ok}"] == 1
    assert text["tts_audio_seconds_total"] == 4.0
    assert text["tts_ttfa_seconds_sum"] == 0.3
    assert text["tts_rtf_sum"] == 0.5
    assert text["tts_stage_seconds_sum{stage=codec}"] == 0.5


def test_before_the_first_request_figures_are_absent_and_not_zero() -> None:
    snapshot = Metrics().snapshot()
    for summary in [*snapshot["latency"].values(), *snapshot["stages_s"].values()]:
        assert summary["count"] == 0
        assert all(value is None for key, value in summary.items() if key != "count")
    assert snapshot["engine"] is None
    assert snapshot["gpu"] is None
    assert snapshot["caches"] == {}


def test_what_was_not_measured_enters_no_average() -> None:
    metrics = Metrics()
    ended(metrics, ttfa_s=1.0)
    ended(metrics)
    assert metrics.snapshot()["latency"]["ttfa_s"]["count"] == 1
    assert metrics.snapshot()["latency"]["rtf"]["count"] == 0


@pytest.mark.parametrize("status", [RequestStatus.CANCELLED, RequestStatus.FAILED])
def test_a_broken_off_request_does_not_flatter_the_real_time_factor(status: RequestStatus) -> None:
    metrics = Metrics()
    ended(metrics, status=status, audio_s=1.0, total_s=0.1, ttfa_s=0.05, error="GenerationError")
    snapshot = metrics.snapshot()
    assert snapshot["latency"]["rtf"]["count"] == 0
    assert snapshot["latency"]["ttfa_s"]["count"] == 1
    assert snapshot["requests"]["by_status"][status.value] == 1
    assert snapshot["errors"] == {"GenerationError": 1}
    assert snapshot["audio_s"] == 1.0


def test_rejected_requests_are_counted_by_error_and_never_in_progress() -> None:
    metrics = Metrics()
    metrics.request_rejected("QueueFullError")
    metrics.request_rejected("QueueFullError")
    snapshot = metrics.snapshot()
    assert snapshot["requests"]["by_status"]["rejected"] == 2
    assert snapshot["requests"]["in_progress"] == 0
    assert samples(metrics)["tts_errors_total{error=QueueFullError}"] == 2


def test_running_requests_are_in_progress() -> None:
    metrics = Metrics()
    metrics.request_started()
    metrics.request_started()
    metrics.request_ended(record())
    assert metrics.snapshot()["requests"]["in_progress"] == 1
    assert samples(metrics)["tts_requests_in_progress"] == 1


def test_caches_queue_and_card_are_read_when_asked_for() -> None:
    metrics = Metrics()
    cache = FakeCache()
    metrics.watch_cache("semantic_codes", lambda: cache)
    cache.hits = 30
    text = samples(metrics)
    assert text["tts_cache_hits_total{cache=semantic_codes}"] == 30
    assert text["tts_cache_misses_total{cache=semantic_codes}"] == 1
    assert text["tts_cache_evictions_total{cache=semantic_codes}"] == 2
    assert text["tts_cache_bytes{cache=semantic_codes}"] == 640
    assert metrics.snapshot()["caches"]["semantic_codes"]["hit_ratio"] == pytest.approx(30 / 31)


def test_a_cache_nobody_asked_has_no_hit_ratio() -> None:
    metrics = Metrics()
    metrics.watch_cache("voice_codes", lambda: FakeCache(hits=0, misses=0))
    assert metrics.snapshot()["caches"]["voice_codes"]["hit_ratio"] is None


def test_the_engine_is_shown() -> None:
    metrics = watched()
    text = samples(metrics)
    assert text["tts_queue_depth"] == 7
    assert text["tts_active_sequences"] == 2
    assert text["tts_device_memory_bytes"] == 99
    assert metrics.snapshot()["engine"]["queue_depth"] == 7
    assert metrics.snapshot()["engine"]["state"] == "ready"


def test_values_the_machine_does_not_tell_leave_no_sample() -> None:
    metrics = watched()
    text = samples(metrics)
    assert text["gpu_power_watts"] == 70.5
    assert "gpu_utilization_percent" not in text
    assert "tts_device_memory_peak_bytes" not in text
    assert metrics.snapshot()["engine"]["peak_memory_bytes"] is None


def test_a_snapshot_is_plain_json() -> None:
    metrics = watched()
    ended(metrics, audio_s=1.0, total_s=0.5, error=None)
    plain = metrics.snapshot()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_the_uptime_follows_the_clock() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    clock.now_s += 12.5
    assert metrics.snapshot()["uptime_s"] == 12.5


def test_every_metric_says_its_unit_and_is_documented() -> None:
    text = watched().prometheus_text().decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 20
    for family in families:
        name = family.name.removesuffix("_created")
        assert name.startswith(("tts_", "gpu_"))
        assert name in COUNTED or name.endswith(UNITS), name
        if family.name == name:
            assert len(family.documentation) > 4


def test_the_names_that_dashboards_rely_on_are_there() -> None:
    metrics = watched()
    ended(metrics, audio_s=1.0, total_s=1.0, ttfa_s=1.0, stages_s=dict.fromkeys(Stage, 0.1))
    text = metrics.prometheus_text().decode()
    for name in (
        "tts_requests_total",
        "tts_ttfa_seconds_bucket",
        "tts_rtf_bucket",
        "tts_audio_seconds_total",
        "tts_underruns_total",
        "tts_queue_depth",
        "tts_active_sequences",
        "tts_cache_hits_total",
        "tts_cache_misses_total",
        "tts_cache_evictions_total",
        "tts_cache_bytes",
        "tts_stage_seconds_bucket",
    ):
        assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), name


def test_two_services_share_nothing_and_the_global_registry_stays_clean() -> None:
    first, second = Metrics(), Metrics()
    ended(first)
    assert second.snapshot()["requests"]["total"] == 0
    assert not [family for family in REGISTRY.collect() if family.name.startswith("tts_")]


def test_the_media_type_is_the_one_of_the_text() -> None:
    assert PROMETHEUS_MEDIA_TYPE.startswith("text/plain; version=")


def test_many_threads_lose_no_request() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(300):
            ended(metrics, audio_s=1.0, total_s=0.5)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot()["requests"]["total"] == 900
    assert metrics.snapshot()["requests"]["in_progress"] == 0
    assert metrics.snapshot()["audio_s"] == 900.0
    assert samples(metrics)["tts_requests_total{status=ok}"] == 900


def test_the_engines_own_caches_are_shown_beside_the_services() -> None:
    caches = watched().snapshot()["caches"]
    assert set(caches) == {"voice_codes", "prefix_kv"}
    assert (caches["prefix_kv"]["hits"], caches["prefix_kv"]["entries"]) == (5, 3)
    text = samples(watched())
    assert text["tts_cache_evictions_total{cache=prefix_kv}"] == 1
    assert text["tts_cache_budget_bytes{cache=prefix_kv}"] == 128
