"""What only a real port shows: bytes before the end, clients that leave, broken connections."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

import httpx
import pytest

from backend.app import create_app, server_config
from tests.conftest import MakeSettings, file_of, serve, tone, until_open
from tests.fakes import FAKE_INFO, FakeEngineClient

HELLO = {"text": "Hello there, how are you?", "seed": 5, "format": "pcm"}
NUM_FRAMES = 2 * len(str(HELLO["text"]))
ALL_BYTES = NUM_FRAMES * FAKE_INFO.frame_length * 2


async def test_first_sound_arrives_before_the_rest_is_made(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(1)  # exactly one chunk can be made
    async with live.stream("POST", "/tts", json=HELLO) as answer:
        assert answer.status_code == 200
        chunks = answer.aiter_bytes()
        first = await anext(chunks)
        assert len(first) == engine.frames_per_chunk * FAKE_INFO.frame_length * 2
        assert (await live.get("/health")).json()["queue"]["running"] == 1
        for _ in range(NUM_FRAMES):
            engine.permits.release()
        rest = b"".join([chunk async for chunk in chunks])
    assert len(first + rest) == ALL_BYTES


@pytest.mark.parametrize("name", ["wav", "mp3", "flac", "opus", "aac"])
async def test_every_format_streams(live: httpx.AsyncClient, engine: FakeEngineClient, name: str):
    engine.permits = asyncio.Semaphore(6)  # of ten chunks: 0.6 s of sound
    async with live.stream("POST", "/tts", json={**HELLO, "format": name}) as answer:
        chunks = answer.aiter_bytes()
        assert len(await anext(chunks)) > 0
        assert not engine.idle.is_set()
        for _ in range(NUM_FRAMES):
            engine.permits.release()
        assert len(b"".join([chunk async for chunk in chunks])) > 0


async def test_client_that_leaves_frees_the_slot(live: httpx.AsyncClient, engine: FakeEngineClient):
    engine.permits = asyncio.Semaphore(1)
    async with live.stream("POST", "/tts", json=HELLO, headers={"X-Request-Id": "left"}) as answer:
        chunks = answer.aiter_bytes()
        await anext(chunks)
        assert (await live.get("/health")).json()["queue"]["running"] == 1
    await engine.idle.wait()
    figures = (await live.get("/metrics/requests/left")).json()
    assert (figures["status"], figures["num_frames"]) == ("cancelled", engine.frames_per_chunk)


async def test_client_that_leaves_before_the_first_sound_frees_its_place(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(0)
    waiting = asyncio.create_task(live.post("/tts", json=HELLO))
    await engine.has_request.wait()
    waiting.cancel()
    await engine.idle.wait()
    assert (await live.get("/metrics")).json()["requests"]["in_progress"] == 0


async def test_client_that_leaves_a_whole_file_frees_its_place(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(2)
    waiting = asyncio.create_task(live.post("/tts", json={**HELLO, "stream": False}))
    await engine.has_request.wait()
    waiting.cancel()
    await engine.idle.wait()


async def test_client_that_leaves_the_queue_is_forgotten(make_settings: MakeSettings):
    engine = FakeEngineClient(max_running=1)
    engine.permits = asyncio.Semaphore(1)
    app = create_app(make_settings(), engine)
    async with serve(app) as address, httpx.AsyncClient(base_url=address, trust_env=False) as http:
        await until_open(app)
        async with http.stream("POST", "/tts", json=HELLO) as speaking:
            chunks = speaking.aiter_bytes()  # dropping it would close the connection
            await anext(chunks)
            engine.has_request.clear()
            queued = asyncio.create_task(http.post("/tts", json={**HELLO, "seed": 6}))
            await engine.has_request.wait()
            assert (await http.get("/health")).json()["queue"]["waiting"] == 1
            queued.cancel()
            await engine.has_left.wait()
            assert (await http.get("/health")).json()["queue"]["waiting"] == 0
        await engine.idle.wait()


async def test_failure_in_the_middle_breaks_the_connection(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.fail_at_frame = 20
    with pytest.raises(httpx.RemoteProtocolError):
        await live.post("/tts", json=HELLO, headers={"X-Request-Id": "broken"})
    figures = (await live.get("/metrics/requests/broken")).json()
    assert (figures["status"], figures["error"]) == ("failed", "GenerationError")
    engine.fail_at_frame = None
    assert len((await live.post("/tts", json=HELLO)).content) == ALL_BYTES


async def test_requests_are_spoken_side_by_side(live: httpx.AsyncClient, engine: FakeEngineClient):
    engine.permits = asyncio.Semaphore(0)
    both = [asyncio.create_task(live.post("/tts", json={**HELLO, "seed": seed})) for seed in (1, 2)]
    while (await live.get("/health")).json()["queue"]["running"] < len(both):
        assert not any(task.done() for task in both)
    for _ in range(2 * NUM_FRAMES):
        engine.permits.release()
    answers = await asyncio.gather(*both)
    assert [len(answer.content) for answer in answers] == [ALL_BYTES] * 2
    assert answers[0].content != answers[1].content


async def test_same_recording_at_the_same_time_is_encoded_once(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.may_encode.clear()
    content = file_of(tone(2.0))

    async def speak() -> httpx.Response:
        return await live.post(
            "/tts", data={"text": "Hi."}, files={"speaker_file": ("me.wav", content)}
        )

    tasks = [asyncio.create_task(speak()) for _ in range(3)]
    await engine.has_encode.wait()
    engine.may_encode.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(engine.encoded) == 1


async def test_health_answers_while_the_model_loads(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    engine.may_load.clear()
    app = create_app(make_settings(), engine)
    async with serve(app) as address, httpx.AsyncClient(base_url=address, trust_env=False) as http:
        health = await http.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "starting")
        assert (await http.get("/health/ready")).status_code == 503
        for refused in (await http.post("/tts", json=HELLO), await http.get("/voices")):
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.json()["error"]["type"] == "engine_unavailable"
        engine.may_load.set()
        await until_open(app)
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.post("/tts", json=HELLO)).status_code == 200


async def refused(http: httpx.AsyncClient, url: str) -> None:
    """Ask until nobody listens any more."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            await http.get(url)


async def test_shutdown_lets_speech_end_and_takes_nothing_new(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(1)
    app = create_app(make_settings(), engine)
    served = AsyncExitStack()
    grace_s = server_config(app, make_settings()).timeout_graceful_shutdown
    address = await served.enter_async_context(serve(app, timeout_graceful_shutdown=grace_s))
    await until_open(app)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as http,
        http.stream("POST", f"{address}/tts", json=HELLO) as answer,
    ):
        chunks = answer.aiter_bytes()
        heard = await anext(chunks)
        stopping = asyncio.create_task(served.aclose())
        await refused(http, f"{address}/health")
        assert not stopping.done()
        for _ in range(1000):
            engine.permits.release()
        heard += b"".join([chunk async for chunk in chunks])
    await stopping
    assert len(heard) == ALL_BYTES
    assert engine.status().state == "closed"


def test_the_setting_decides_how_long_speech_may_end(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    settings = make_settings(shutdown_grace_s=7)
    config = server_config(create_app(settings, engine), settings)
    assert config.timeout_graceful_shutdown == 7


async def test_shutdown_ends_speech_that_is_under_way(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(1)
    app = create_app(make_settings(), engine)
    async with httpx.AsyncClient(trust_env=False) as http:
        async with serve(app) as address:
            await until_open(app)
            speaking = http.stream("POST", f"{address}/tts", json=HELLO)
            answer = await speaking.__aenter__()
            chunks = answer.aiter_bytes()
            await anext(chunks)
        await speaking.__aexit__(None, None, None)
    assert engine.idle.is_set()
    assert engine.status().state == "closed"
