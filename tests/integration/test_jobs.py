"""``/jobs``: long texts in the background, over restarts, pauses and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from backend.app import create_app
from tests.conftest import MakeSettings, file_of, serve, tone, until_open
from tests.fakes import FAKE_INFO, FakeEngineClient

SENTENCE = "This is sentence number {} of a text that is much too long for one stretch of speech, "
TEXT = " ".join(
    SENTENCE.format(n) + "so that it has to be cut into several of them." for n in range(8)
)
NUM_SEGMENTS = 8
ASK = {"text": TEXT, "seed": 3, "format": "pcm", "name": "Book"}

App = Callable[..., Any]


@pytest.fixture
def app(make_settings: MakeSettings) -> App:
    """Serve the app with an engine; again and again on the same data."""

    @asynccontextmanager
    async def run(engine: FakeEngineClient, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        served = create_app(make_settings(**changes), engine)
        async with (
            serve(served) as address,
            httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as http,
        ):
            await until_open(served)
            yield http

    return run


def held_engine(num_chunks: int) -> FakeEngineClient:
    """Make an engine that stops after so many chunks of audio."""
    engine = FakeEngineClient()
    engine.permits = asyncio.Semaphore(num_chunks)
    engine.frames_per_chunk = 10_000  # one chunk a segment
    return engine


async def submit(http: httpx.AsyncClient, **changes: Any) -> str:
    answer = await http.post("/jobs", json={**ASK, **changes})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


async def seen(http: httpx.AsyncClient, job_id: str) -> AsyncIterator[dict[str, Any]]:
    async with http.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def wait_for(
    http: httpx.AsyncClient, job_id: str, is_there: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    async for job in seen(http, job_id):
        if is_there(job):
            return job
    raise AssertionError("the events ended before")


async def until_ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for job in seen(http, job_id):
        last = job
    return last


async def spoken_directly(http: httpx.AsyncClient, **changes: Any) -> bytes:
    asked = {**{key: value for key, value in ASK.items() if key != "name"}, **changes}
    return (await http.post("/tts", json=asked)).content


async def test_job_gives_the_same_sound_as_tts(app: App):
    engine = FakeEngineClient()
    async with app(engine, cache_limit=0) as http:
        job_id = await submit(http)
        job = await until_ended(http, job_id)
        assert (job["status"], job["progress"], job["error"]) == ("done", 1.0, None)
        assert job["num_segments"] == job["done_segments"] == NUM_SEGMENTS
        assert (job["name"], job["voice"], job["seed"]) == ("Book", "alto", 3)
        assert job["text"].startswith("This is sentence number 0")
        sound = await http.get(f"/jobs/{job_id}/audio")
        assert sound.headers["Content-Disposition"].endswith('.pcm"')
        assert sound.content == await spoken_directly(http)
        seconds = len(sound.content) / 2 / FAKE_INFO.sample_rate
        assert job["audio_duration_s"] == pytest.approx(seconds, abs=0.01)
        listed = (await http.get("/jobs")).json()["jobs"]
        assert [one["id"] for one in listed] == [job_id]


async def test_restart_goes_on_without_repeating_what_is_done(app: App):
    first = held_engine(3)
    async with app(first) as http:
        job_id = await submit(http)
        await wait_for(http, job_id, lambda job: job["done_segments"] == 3)
    second = FakeEngineClient()
    async with app(second) as http:
        job = await until_ended(http, job_id)
        assert (job["status"], job["done_segments"]) == ("done", NUM_SEGMENTS)
        texts = [request.text for request in second.requests]
        done = {request.text for request in first.requests[:3]}
        assert len(texts) == NUM_SEGMENTS - 3
        assert done.isdisjoint(texts)
        assert second.requests[0].turns[-1].text == first.requests[2].text
        sound = (await http.get(f"/jobs/{job_id}/audio")).content
        await http.post("/cache/clear")
        assert sound == await spoken_directly(http)


async def test_another_format_costs_no_model_run(app: App):
    engine = FakeEngineClient()
    async with app(engine, cache_limit=0) as http:
        job_id = await submit(http)
        await until_ended(http, job_id)
        engine.requests.clear()
        answer = await http.get(f"/jobs/{job_id}/audio?format=flac&sample_rate=8000")
        assert answer.headers["X-Sample-Rate"] == "8000"
        assert answer.content.startswith(b"fLaC")
        assert len(engine.requests) == NUM_SEGMENTS
        assert all(request.codes is not None and not request.text for request in engine.requests)
        refused = await http.get(f"/jobs/{job_id}/audio?format=opus&sample_rate=44100")
        assert refused.json()["error"]["type"] == "unsupported_format"


async def test_pause_stops_and_resume_goes_on(app: App):
    engine = held_engine(2)
    async with app(engine) as http:
        job_id = await submit(http)
        await wait_for(http, job_id, lambda job: job["done_segments"] == 2)
        paused = (await http.post(f"/jobs/{job_id}/pause")).json()
        assert (paused["status"], paused["done_segments"]) == ("paused", 2)
        await asyncio.wait_for(engine.idle.wait(), 5)
        again = await http.post(f"/jobs/{job_id}/pause")
        assert (again.status_code, again.json()["error"]["type"]) == (409, "job_state")
        early = await http.get(f"/jobs/{job_id}/audio")
        assert early.status_code == 409
        assert "partial=true" in early.json()["error"]["message"]
        assert engine.permits is not None
        for _ in range(50):
            engine.permits.release()
        part = await http.get(f"/jobs/{job_id}/audio?partial=true")
        assert part.status_code == 200
        resumed = (await http.post(f"/jobs/{job_id}/resume")).json()
        assert resumed["status"] in ("queued", "running")
        assert (await until_ended(http, job_id))["status"] == "done"
        whole = (await http.get(f"/jobs/{job_id}/audio")).content
        assert whole.startswith(part.content)
        assert len(whole) > len(part.content) > 0


async def test_paused_job_stays_paused_over_a_restart(app: App):
    async with app(held_engine(1)) as http:
        job_id = await submit(http)
        await wait_for(http, job_id, lambda job: job["done_segments"] == 1)
        await http.post(f"/jobs/{job_id}/pause")
    engine = FakeEngineClient()
    async with app(engine) as http:
        assert (await http.get(f"/jobs/{job_id}")).json()["status"] == "paused"
        assert engine.requests == []
        await http.post(f"/jobs/{job_id}/resume")
        assert (await until_ended(http, job_id))["status"] == "done"


async def test_cancel_ends_a_job_and_lets_the_next_one_run(app: App):
    engine = held_engine(1)
    async with app(engine) as http:
        first = await submit(http)
        second = await submit(http, text="A short one.")
        await wait_for(http, first, lambda job: job["done_segments"] == 1)
        assert (await http.get(f"/jobs/{second}")).json()["status"] == "queued"
        assert (await http.post(f"/jobs/{first}/cancel")).json()["status"] == "cancelled"
        assert engine.permits is not None
        engine.permits.release()
        assert (await until_ended(http, second))["status"] == "done"
        assert (await http.post(f"/jobs/{first}/resume")).status_code == 409
        newest_first = [job["id"] for job in (await http.get("/jobs")).json()["jobs"]]
        assert newest_first == [second, first]


async def test_delete_forgets_a_running_job(app: App):
    engine = held_engine(1)
    async with app(engine) as http:
        job_id = await submit(http)
        watching = asyncio.create_task(until_ended(http, job_id))
        await wait_for(http, job_id, lambda job: job["done_segments"] == 1)
        assert (await http.delete(f"/jobs/{job_id}")).status_code == 204
        await asyncio.wait_for(watching, 5)  # the events end
        await asyncio.wait_for(engine.idle.wait(), 5)
        for path in ("", "/events", "/audio"):
            answer = await http.get(f"/jobs/{job_id}{path}")
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "job_not_found")
        assert (await http.delete(f"/jobs/{job_id}")).status_code == 404


async def test_failed_segment_is_reported_and_can_be_tried_again(app: App):
    engine = FakeEngineClient()
    # the middle sentence is the only one that reaches this frame
    text = f"One. Two. \n{TEXT[:300]}"
    async with app(engine, cache_limit=0) as http:
        probe = await submit(http, text=text)
        await until_ended(http, probe)
        lengths = [2 * len(request.text) for request in engine.requests]
        engine.fail_at_frame = max(lengths) - 1
        num_failing = lengths.count(max(lengths))
        job_id = await submit(http, text=text)
        job = await until_ended(http, job_id)
        assert job["status"] == "failed"
        assert "resume" in job["error"]
        assert (
            len(job["failed_segments"]) == num_failing == job["num_segments"] - job["done_segments"]
        )
        failed = job["failed_segments"][0]
        assert "engine failed" in failed["error"]
        assert len(failed["text"]) * 2 == max(lengths)
        assert (await http.get(f"/jobs/{job_id}/audio")).status_code == 409
        engine.fail_at_frame = None
        engine.requests.clear()
        await http.post(f"/jobs/{job_id}/resume")
        job = await until_ended(http, job_id)
        assert (job["status"], job["failed_segments"], job["error"]) == ("done", [], None)
        assert len(engine.requests) == num_failing


async def test_many_failures_in_a_row_end_the_job(app: App):
    engine = FakeEngineClient()
    engine.fail_at_frame = 0
    async with app(engine) as http:
        job = await until_ended(http, await submit(http))
        assert (job["status"], len(job["failed_segments"])) == ("failed", 3)
        assert len(engine.requests) == 3


async def test_job_waits_while_others_wait_for_a_slot(app: App):
    engine = FakeEngineClient(max_running=1)
    engine.permits = asyncio.Semaphore(0)
    engine.frames_per_chunk = 10_000
    async with app(engine, cache_limit=0) as http:
        talking = asyncio.create_task(http.post("/tts", json={"text": "Me first."}))
        await asyncio.wait_for(engine.has_request.wait(), 5)
        job_id = await submit(http, text="Then the job.")
        await wait_for(http, job_id, lambda job: job["status"] == "running")
        assert [request.text for request in engine.requests] == ["Me first."]
        for _ in range(4):
            engine.permits.release()
        assert (await talking).status_code == 200
        assert (await until_ended(http, job_id))["status"] == "done"


async def test_job_of_another_model_is_kept_but_not_continued(app: App):
    async with app(held_engine(1)) as http:
        job_id = await submit(http)
        await wait_for(http, job_id, lambda job: job["done_segments"] == 1)
    other = FakeEngineClient(replace(FAKE_INFO, revision="fake-2"))
    async with app(other) as http:
        job = await until_ended(http, job_id)
        assert job["status"] == "failed"
        assert "another version" in job["error"]
        assert (await http.get(f"/jobs/{job_id}/audio?partial=true")).status_code == 409
        assert other.requests == []


async def test_recording_is_kept_with_the_job(app: App):
    engine = held_engine(1)
    recording = {"speaker_file": ("me.wav", file_of(tone(2.0)))}
    async with app(engine) as http:
        data = {"text": TEXT, "prompt_text": "What I said.", "seed": "1"}
        answer = await http.post("/jobs", data=data, files=recording)
        assert answer.json()["voice"] == "upload"
        job_id = answer.json()["id"]
        await wait_for(http, job_id, lambda job: job["done_segments"] == 1)
    second = FakeEngineClient()
    async with app(second) as http:
        assert (await until_ended(http, job_id))["status"] == "done"
    assert second.encoded == []
    np.testing.assert_array_equal(
        second.requests[0].turns[0].codes, engine.requests[0].turns[0].codes
    )


async def test_limits_and_wrong_requests_are_refused_by_name(app: App):
    async with app(FakeEngineClient(), max_jobs=1, max_job_chars=2000) as http:
        for fields, status, words in (
            ({"text": "x" * 2001}, 400, "raise MAX_JOB_CHARS"),
            ({"text": "Hi.", "stream": False}, 422, "stream"),
            ({"text": "Hi.", "voice": "nobody"}, 404, "alto"),
            ({"text": "Hi.", "format": "ogg"}, 400, "opus"),
            ({"text": "Hi.", "language": "xx"}, 400, "German"),
            ({"text": ""}, 400, "empty"),
        ):
            answer = await http.post("/jobs", json=fields)
            assert answer.status_code == status, answer.text
            assert words in answer.json()["error"]["message"]
        await until_ended(http, await submit(http))
        full = await http.post("/jobs", json=ASK)
        assert (full.status_code, full.json()["error"]["type"]) == (409, "job_limit")
