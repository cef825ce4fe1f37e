"""What a request has cost, as headers and records; and effects that change how much is heard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from backend.core.types import AudioChunk, EngineStatus, SynthesisRequest, SynthesisSummary
from backend.telemetry.nvml import GpuReading
from tests.conftest import AppClient, file_of, tone
from tests.fakes import FAKE_INFO, FakeEngineClient

HELLO = {"text": "Hello there.", "seed": 3}
SILENT_FRAMES = 30


class Engine(FakeEngineClient):
    """Tells its memory, and says nothing for a while before and after its speech."""

    peak_bytes: int | None = None
    is_slow_to_speak = False

    def status(self) -> EngineStatus:
        return replace(super().status(), peak_memory_bytes=self.peak_bytes)

    async def synthesize(self, request: SynthesisRequest):
        results = super().synthesize(request)
        pause = AudioChunk(
            np.zeros(SILENT_FRAMES * FAKE_INFO.frame_length, np.float32),
            np.zeros((FAKE_INFO.num_codebooks, SILENT_FRAMES), np.int32),
        )
        if self.is_slow_to_speak:
            yield pause
        async for result in results:
            if self.is_slow_to_speak and isinstance(result, SynthesisSummary):
                yield pause
            yield result


class Card:
    latest = GpuReading(available=True, utilization_percent=42)
    joules = None


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(app_client: AppClient) -> Iterator[TestClient]:
    with app_client(cache_limit=0) as opened:
        yield opened


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_card_its_headers_are_absent(client: TestClient, stream: bool):
    answer = client.post("/tts", json={**HELLO, "stream": stream})
    assert "X-TTFA-Ms" in answer.headers
    assert not {"x-peak-vram-mb", "x-gpu-util-pct"} & set(answer.headers)
    figures = client.get(f"/metrics/requests/{answer.headers['X-Request-Id']}").json()
    assert (figures["peak_vram_mb"], figures["gpu_util_pct"]) == (None, None)


@pytest.mark.parametrize("stream", [False, True])
def test_with_a_card_its_figures_come_with_the_speech(
    client: TestClient, engine: Engine, stream: bool
):
    engine.peak_bytes = 3 << 19
    client.app.state.context.service.metrics.watch_card(Card())  # pyright: ignore
    answer = client.post("/tts", json={**HELLO, "stream": stream})
    assert answer.headers["X-Peak-VRAM-Mb"] == "1.5"
    assert answer.headers["X-GPU-Util-Pct"] == "42"
    figures = client.get(f"/metrics/requests/{answer.headers['X-Request-Id']}").json()
    assert (figures["peak_vram_mb"], figures["gpu_util_pct"]) == (1.5, 42)


def test_a_queue_time_that_is_not_known_is_absent_and_not_zero(client: TestClient):
    streamed = client.post("/tts", json={**HELLO, "stream": True})
    assert "X-Queue-Ms" not in streamed.headers  # the engine tells at the end
    whole = client.post("/tts", json={**HELLO, "stream": False})
    assert whole.headers["X-Queue-Ms"] == "1.0"


def test_metrics_tell_the_load(client: TestClient):
    client.post("/tts", json=HELLO)
    load = client.get("/metrics").json()["load"]
    assert (load["batch_size"]["p50"], load["queue_depth"]["max"]) == (1, 0)
    assert "tts_recent_batch_size" in client.get("/metrics/prometheus").text


def pcm(client: TestClient, **fields: object) -> NDArray[np.int16]:
    answer = client.post("/tts", json={**HELLO, "format": "pcm", **fields})
    assert answer.status_code == 200
    return np.frombuffer(answer.content, "<i2")


@pytest.mark.parametrize("stream", [False, True])
def test_silence_around_speech_can_be_trimmed(client: TestClient, engine: Engine, stream: bool):
    plain = pcm(client, stream=stream)
    engine.is_slow_to_speak = True
    padded = pcm(client, stream=stream)
    assert padded.size == plain.size + 2 * SILENT_FRAMES * FAKE_INFO.frame_length
    trimmed = pcm(client, stream=stream, trim_silence=True)
    margin = round(0.03 * FAKE_INFO.sample_rate)
    assert plain.size <= trimmed.size <= plain.size + 2 * margin
    at = int(np.flatnonzero(trimmed)[0]) - int(np.flatnonzero(plain)[0])
    assert np.array_equal(trimmed[at : at + plain.size], plain)


def test_trimmed_speech_tells_its_own_duration_and_goes_with_speed(
    client: TestClient, engine: Engine
):
    engine.is_slow_to_speak = True
    fields = {"trim_silence": True, "speed": 2, "stream": False}
    answer = client.post("/tts", json={**HELLO, "format": "pcm", **fields})
    duration_s = len(answer.content) / 2 / FAKE_INFO.sample_rate
    assert float(answer.headers["X-Audio-Duration-S"]) == pytest.approx(duration_s, abs=0.001)
    assert np.array_equal(pcm(client, **{**fields, "stream": True}).size, len(answer.content) // 2)


def test_trimming_off_is_the_default_and_changes_nothing(client: TestClient, engine: Engine):
    engine.is_slow_to_speak = True
    assert np.array_equal(pcm(client), pcm(client, trim_silence=False))
    assert np.array_equal(pcm(client), pcm(client, trim_silence=None))


def test_a_job_and_a_form_take_trim_silence(client: TestClient, tmp_path: Path):
    job = client.post("/jobs", json={**HELLO, "trim_silence": True})
    assert job.status_code in {200, 201, 202}, job.text
    form = {**HELLO, "trim_silence": "true", "format": "pcm"}
    recording = {"speaker_file": ("a.wav", file_of(tone(1.5)))}
    assert client.post("/tts", data=form, files=recording).status_code == 200
