from __future__ import annotations

import json
import threading

import pytest

from backend.core.types import EngineState, EngineStatus
from backend.telemetry.card import CardWatch, EnergyMeter
from backend.telemetry.metrics import Metrics
from backend.telemetry.nvml import GpuReading
from backend.telemetry.recent import RequestRecord, RequestStatus, Stage


def test_energy_is_power_over_the_time_in_which_there_is_work():
    meter = EnergyMeter()
    assert meter.joules is None
    meter.note(0.0, 100.0, is_busy=True)
    assert meter.joules == 0.0
    meter.note(2.0, 200.0, is_busy=True)
    assert meter.joules == 300.0
    meter.note(10.0, 200.0, is_busy=False)
    assert meter.joules == 300.0
    meter.note(11.0, 100.0, is_busy=True)
    assert meter.joules == 450.0


def test_a_reading_without_power_makes_a_gap_and_no_zero():
    meter = EnergyMeter()
    meter.note(0.0, None, is_busy=True)
    assert meter.joules is None
    meter.note(1.0, 100.0, is_busy=True)
    meter.note(2.0, None, is_busy=True)
    meter.note(9.0, 100.0, is_busy=True)
    assert meter.joules == 0.0


class Card:
    def __init__(self, reading: GpuReading) -> None:
        self.reading = reading
        self.num_reads = 0
        self.was_read_often = threading.Event()

    def read(self) -> GpuReading:
        self.num_reads += 1
        if self.num_reads >= 5:
            self.was_read_often.set()
        return self.reading


def test_without_a_card_nothing_runs_and_nothing_is_known():
    card = Card(GpuReading(available=False, reason="no driver"))
    watch = CardWatch(card.read, lambda: True)
    threads = threading.active_count()
    watch.start()
    assert threading.active_count() == threads
    assert (watch.latest, watch.joules) == (None, None)
    watch.close()


def test_a_card_is_read_again_and_again_until_the_end():
    card = Card(GpuReading(available=True, utilization_percent=42, power_w=250.0))
    watch = CardWatch(card.read, lambda: True, interval_s=0.001)
    threads = threading.active_count()
    watch.start()
    assert card.was_read_often.wait(30)
    assert watch.latest == card.reading
    assert watch.joules is not None
    assert watch.joules > 0
    watch.close()
    watch.close()
    assert threading.active_count() == threads


class KnownCard:
    latest = GpuReading(available=True, utilization_percent=42)
    joules = 500.0


def record(**facts: object) -> RequestRecord:
    return RequestRecord("r", RequestStatus.OK, 1.0, **facts)  # pyright: ignore[reportArgumentType]


def test_joules_per_second_of_speech_are_told_where_power_is_known():
    metrics = Metrics()
    assert metrics.snapshot()["energy"] == {"joules": None, "joules_per_audio_s": None}
    assert "tts_energy_joules 500" not in metrics.prometheus_text().decode()
    metrics.watch_card(KnownCard())
    assert metrics.snapshot()["energy"] == {"joules": 500.0, "joules_per_audio_s": None}
    metrics.request_started()
    metrics.request_ended(record(audio_s=20.0))
    assert metrics.snapshot()["energy"]["joules_per_audio_s"] == 25.0
    text = metrics.prometheus_text().decode()
    assert "tts_energy_joules 500.0" in text
    assert "tts_energy_joules_per_audio_second 25.0" in text


def test_queue_and_batch_are_looked_at_whenever_there_is_sound():
    metrics = Metrics(window=10)
    metrics.chunk_made()  # nobody watches an engine yet
    statuses = iter([(1, 0), (3, 0), (4, 2)])

    def status() -> EngineStatus:
        num_running, num_waiting = next(statuses)
        return EngineStatus(EngineState.READY, num_running=num_running, num_waiting=num_waiting)

    metrics.watch_engine(status)
    for _ in range(3):
        metrics.chunk_made()
    metrics.watch_engine(lambda: EngineStatus(EngineState.READY))
    load = metrics.snapshot()["load"]
    assert (load["batch_size"]["avg"], load["batch_size"]["max"]) == (pytest.approx(8 / 3), 4)
    assert (load["queue_depth"]["p50"], load["queue_depth"]["max"]) == (0, 2)
    assert 'tts_recent_batch_size{figure="p50"} 3.0' in metrics.prometheus_text().decode()


def test_every_rolling_figure_is_json_and_prometheus():
    metrics = Metrics()
    for seconds in (1.0, 3.0):
        metrics.request_started()
        stages = {Stage.QUEUE: seconds / 10, Stage.CODEC: seconds / 100}
        metrics.request_ended(
            record(audio_s=2.0, total_s=seconds, ttfa_s=seconds / 4, stages_s=stages)
        )
    snapshot = json.loads(json.dumps(metrics.snapshot()))
    assert snapshot["latency"]["queue_wait_s"]["avg"] == pytest.approx(0.2)
    assert snapshot["latency"]["rtf"]["max"] == 1.5
    assert snapshot["stages_s"]["codec"]["p95"] == pytest.approx(0.029)
    text = metrics.prometheus_text().decode()
    for line in (
        'tts_recent_queue_wait_seconds{figure="max"} 0.3',
        'tts_recent_ttfa_seconds{figure="avg"} 0.5',
        'tts_recent_rtf{figure="min"} 0.5',
        'tts_recent_stage_seconds{figure="max",stage="codec"} 0.03',
    ):
        assert line in text
    assert 'stage="prefill",figure' not in text
    assert "tts_recent_batch_size{" not in text


def test_device_figures_are_absent_where_nobody_tells():
    metrics = Metrics()
    assert metrics.device_figures() == (None, None)
    metrics.watch_engine(lambda: EngineStatus(EngineState.READY, peak_memory_bytes=7))
    metrics.watch_card(KnownCard())
    assert metrics.device_figures() == (7, 42)
