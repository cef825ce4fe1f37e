"""What a client sees when the engine is overloaded or late."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from backend.app import create_app
from backend.core.errors import DeadlineExceededError, OverloadedError
from backend.core.types import AudioChunk, SynthesisRequest, SynthesisSummary
from tests.conftest import MakeSettings, until_open
from tests.fakes import FAKE_INFO, FakeEngineClient

HELLO = {"text": "Hello there, how are you?", "seed": 5, "format": "pcm"}


class TroubledEngine(FakeEngineClient):
    """Raises ``trouble`` after ``after`` chunks of a request; notes underruns in its summaries."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.after = 0

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        count = 0
        async for result in super().synthesize(request):
            if self.trouble is not None and count == self.after:
                raise self.trouble
            count += 1
            is_summary = isinstance(result, SynthesisSummary)
            yield replace(result, num_underruns=2) if is_summary else result


@pytest.fixture
def troubled() -> TroubledEngine:
    return TroubledEngine()


@pytest.fixture
def http(make_settings: MakeSettings, troubled: TroubledEngine) -> Iterator[TestClient]:
    app = create_app(make_settings(), troubled)
    with TestClient(app) as opened:
        assert opened.portal is not None
        opened.portal.call(until_open, app)
        yield opened


def test_an_overloaded_engine_is_429_with_a_forecast(http: TestClient, troubled: TroubledEngine):
    troubled.trouble = OverloadedError("too many", retry_after_s=2.4, predicted_ttfa_s=1.25)
    answer = http.post("/tts", json=HELLO)
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "overloaded"
    assert answer.headers["Retry-After"] == "3"
    assert answer.headers["X-Predicted-TTFA-Ms"] == "1250"
    assert http.get("/metrics").json()["requests"]["by_status"]["rejected"] == 1


@pytest.mark.parametrize("stream", [True, False])
def test_too_late_before_the_first_sound_is_504(
    http: TestClient, troubled: TroubledEngine, stream: bool
):
    troubled.trouble = DeadlineExceededError("not in time")
    answer = http.post("/tts", json={**HELLO, "stream": stream})
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "deadline_exceeded"


def test_too_late_after_the_first_sound_is_a_clean_end_and_is_counted(
    http: TestClient, troubled: TroubledEngine
):
    troubled.trouble, troubled.after = DeadlineExceededError("not in time"), 2
    answer = http.post("/tts", json=HELLO, headers={"X-Request-Id": "late"})
    assert answer.status_code == 200
    assert len(answer.content) == 2 * troubled.frames_per_chunk * FAKE_INFO.frame_length * 2
    figures = http.get("/metrics/requests/late").json()
    assert (figures["status"], figures["finish_reason"]) == ("failed", "timeout")
    assert http.get("/metrics").json()["errors"] == {"DeadlineExceededError": 1}


def test_a_whole_file_is_never_cut_short(http: TestClient, troubled: TroubledEngine):
    troubled.trouble, troubled.after = DeadlineExceededError("not in time"), 2
    assert http.post("/tts", json={**HELLO, "stream": False}).status_code == 504


def test_underruns_are_counted(http: TestClient):
    http.post("/tts", json=HELLO)
    assert http.get("/metrics").json()["underruns"] == 2
    assert "tts_underruns_total 2.0" in http.get("/metrics/prometheus").text


def test_later_stretches_say_what_the_listener_still_has(
    http: TestClient, troubled: TroubledEngine
):
    text = " ".join(["The quick brown fox jumps over the lazy dog."] * 20)
    http.post("/tts", json={**HELLO, "text": text, "speed": 1.5})
    first, *later = troubled.requests
    assert first.buffered_s is None
    assert all(request.buffered_s is not None for request in later)
    assert {request.speed for request in troubled.requests} == {1.5}
