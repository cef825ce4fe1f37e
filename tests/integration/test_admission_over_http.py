"""``ADMISSION=refuse`` over HTTP, with the real scheduler over an engine in simulated time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import httpx
import numpy as np
import pytest

from backend.app import create_app
from backend.core.contract import Engine, FrameChunk
from backend.serving.limits import SchedulerLimits
from backend.serving.scheduler import Scheduler
from backend.worker.client import TransportClient
from backend.worker.protocol import Deliver, Transport
from backend.worker.thread_transport import ThreadTransport
from tests.conftest import MakeSettings, serve, until_open
from tests.fakes import FAKE_INFO
from tests.unit.serving.simulation import CPU, Clock, SimulatedEngine

INFO = replace(FAKE_INFO, frame_length=2048, sample_rate=44_100)
NUM_FRAMES = 4000
"""16 MB: an answer that nobody reads fills every buffer on its way."""
NUM_BYTES = NUM_FRAMES * INFO.frame_length * 2
LONG = {"text": str(NUM_FRAMES), "seed": 5, "format": "pcm"}
FEEDS = range(5, 12)
"""Streams that this engine can keep supplied."""


class HurriedClock(Clock):
    """The real time, and on top of it what the engine's work would have taken."""

    def __call__(self) -> float:
        return time.perf_counter() + self.now


class SlowEngine(SimulatedEngine):
    """Feeds about ten listeners."""

    def prompt_length(self, text: str, turns: Sequence[object]) -> int:
        return len(text)

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[np.ndarray]:
        super().decode_frames(chunks)
        length = self.info.frame_length
        return [np.full(chunk.codes.shape[1] * length, 0.1, np.float32) for chunk in chunks]


@dataclass(frozen=True)
class SlowSource:
    """Fulfills ``EngineSource`` for a thread."""

    clock: Clock

    def prepare_process(self) -> None:
        raise AssertionError("a thread is no process")

    def load(self) -> Engine:
        return SlowEngine(self.clock, CPU, info=INFO)

    def make_scheduler(self, engine: Engine) -> Scheduler:
        limits = SchedulerLimits(admission="refuse", request_timeout_s=86400)
        return Scheduler(engine, 32, 4, self.clock, limits)


@pytest.fixture
async def http(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    def make_transport(deliver: Deliver) -> Transport:
        return ThreadTransport(SlowSource(HurriedClock()), deliver)

    app = create_app(
        make_settings(speech_guard=False), TransportClient(make_transport, max_open=128)
    )
    limits = httpx.Limits(max_connections=None)
    async with (
        serve(app) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=60, limits=limits) as client,
    ):
        await until_open(app)
        yield client


async def test_the_surplus_is_refused_with_a_forecast_and_the_others_are_heard(
    http: httpx.AsyncClient,
):
    async with AsyncExitStack() as stack:
        answers: list[httpx.Response] = []
        while len(answers) < 30:
            answer = await stack.enter_async_context(http.stream("POST", "/tts", json=LONG))
            answers.append(answer)
            if answer.status_code != 200:
                break
        refused = answers.pop()
        assert refused.status_code == 429
        assert len(answers) in FEEDS
        error = (await refused.aread()).decode()
        assert "overloaded" in error
        assert int(refused.headers["Retry-After"]) >= 1
        assert float(refused.headers["X-Predicted-TTFA-Ms"]) > 0
        assert len(await answers[0].aread()) == NUM_BYTES
    # the others left, so there is room again
    async with http.stream("POST", "/tts", json=LONG) as again:
        assert again.status_code == 200
    metrics = (await http.get("/metrics")).json()
    assert metrics["errors"] == {"OverloadedError": 1}


async def test_files_wait_where_streams_are_refused(http: httpx.AsyncClient):
    async with AsyncExitStack() as stack:
        while True:
            answer = await stack.enter_async_context(http.stream("POST", "/tts", json=LONG))
            if answer.status_code == 429:
                break
        file = await http.post("/tts", json={**LONG, "stream": False})
        assert file.status_code == 200
        assert len(file.content) == NUM_BYTES
