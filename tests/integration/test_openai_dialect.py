"""OpenAI's dialect, asked by OpenAI's own library on a real port."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from backend.core.settings import Settings
from tests.clients import async_openai_client, duration_s, openai_client
from tests.fakes import FAKE_INFO, FRAMES_PER_CHARACTER, FakeEngineClient

TEXT = "Hello there, how are you today?"
TEXT_S = len(TEXT) * FRAMES_PER_CHARACTER / FAKE_INFO.frame_rate
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
SHAPES = json.loads((Path(__file__).parents[1] / "data" / "client_requests.json").read_text())


def address_of(live: httpx.AsyncClient) -> str:
    return str(live.base_url).rstrip("/")


@pytest.fixture
async def client(live: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_openai_client(address_of(live)) as opened:
        yield opened


@pytest.mark.parametrize("format_name", FORMATS)
async def test_every_format_decodes_to_the_right_duration(
    client: openai.AsyncOpenAI, format_name: Any
):
    answer = await client.audio.speech.create(
        model="tts-1", input=TEXT, voice="alto", response_format=format_name
    )
    slack_s = 0.15 if format_name == "aac" else 0.1  # ADTS cannot say how much of it is padding
    assert duration_s(answer.content, format_name, 24_000) == pytest.approx(TEXT_S, abs=slack_s)


async def test_without_a_format_the_file_is_an_mp3(client: openai.AsyncOpenAI):
    answer = await client.audio.speech.create(model="tts-1", input=TEXT, voice="alto")
    assert answer.response.headers["content-type"] == "audio/mpeg"
    assert answer.content[:3] == b"ID3"


async def test_the_synchronous_client_works_too(live: httpx.AsyncClient):
    with openai_client(address_of(live)) as client:
        answer = await asyncio.to_thread(
            client.audio.speech.create, model="tts-1-hd", input=TEXT, voice="alto"
        )
    assert duration_s(answer.content, "mp3", 0) == pytest.approx(TEXT_S, abs=0.1)


async def test_sound_flows_before_the_end(client: openai.AsyncOpenAI, engine: FakeEngineClient):
    engine.permits = asyncio.Semaphore(2)
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", input=TEXT, voice="alto", response_format="pcm"
    ) as answer:
        chunks = answer.iter_bytes()
        assert await anext(chunks)
        assert not engine.idle.is_set()
        for _ in range(100):
            engine.permits.release()
        assert [chunk async for chunk in chunks]


async def test_speed_shortens_the_speech(client: openai.AsyncOpenAI):
    answer = await client.audio.speech.create(
        model="tts-1", input=TEXT, voice="alto", response_format="wav", speed=2.0
    )
    assert duration_s(answer.content, "wav", 0) == pytest.approx(TEXT_S / 2, rel=0.1)


@pytest.mark.parametrize("speed", [0.25, 4.0])
async def test_a_speed_beyond_ours_is_refused_with_the_bounds(
    client: openai.AsyncOpenAI, speed: float
):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.speech.create(model="tts-1", input=TEXT, voice="alto", speed=speed)
    assert caught.value.param == "speed"
    assert "than or equal to" in caught.value.message


async def test_events_carry_the_file_and_the_usage(client: openai.AsyncOpenAI):
    async with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        input=TEXT,
        voice="alto",
        response_format="pcm",
        stream_format="sse",
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    content = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert duration_s(content, "pcm", 24_000) == pytest.approx(TEXT_S, abs=0.01)
    usage = events[-1]["usage"]
    assert events[-1]["type"] == "speech.audio.done"
    assert usage["output_tokens"] == len(TEXT) * FRAMES_PER_CHARACTER
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens"] > 0


async def test_an_error_after_the_first_sound_is_an_event(
    client: openai.AsyncOpenAI, engine: FakeEngineClient
):
    engine.fail_at_frame = 20
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", input=TEXT, voice="alto", response_format="pcm", stream_format="sse"
    ) as answer:
        lines = [line async for line in answer.iter_lines() if line]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["type"] == "speech.audio.error"
    assert last["error"]["code"] == "generation_failed"
    assert len(lines) > 1


async def test_a_client_that_leaves_the_events_frees_its_place(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(1)
    body = {"model": "tts-1", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    async with live.stream("POST", "/v1/audio/speech", json=body) as answer:
        await anext(answer.aiter_bytes())
    async with asyncio.timeout(10):
        await engine.idle.wait()


async def test_openais_voices_are_laid_on_ours_and_the_answer_says_so(client: openai.AsyncOpenAI):
    chosen: set[str] = set()
    for pair in Settings.model_fields["openai_voice_aliases"].default:
        alias = pair.partition("=")[0]
        first = await client.audio.speech.create(model="tts-1", input="Hi.", voice=alias)
        again = await client.audio.speech.create(model="tts-1", input="Hi.", voice=alias)
        voice = first.response.headers["x-voice"]
        assert again.response.headers["x-voice"] == voice
        assert alias in first.response.headers["x-warning"]
        chosen.add(voice)
    assert chosen == {"alto", "basso"}


async def test_a_voice_can_be_named_by_an_object(client: openai.AsyncOpenAI):
    answer = await client.audio.speech.create(model="tts-1", input="Hi.", voice={"id": "basso"})
    assert answer.response.headers["x-voice"] == "basso"


async def test_an_unknown_voice_is_a_404_that_lists_the_known_ones(client: openai.AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.audio.speech.create(model="tts-1", input="Hi.", voice="nobody")
    assert caught.value.code == "voice_not_found"
    assert caught.value.param == "voice"
    assert all(name in caught.value.message for name in ("nobody", "alto", "basso", "alloy"))


@pytest.mark.parametrize("voice", [5, ["alto"], {"name": "alto"}, {"id": 5}, True])
async def test_a_voice_of_the_wrong_kind_is_refused_in_one_sentence(
    live: httpx.AsyncClient, voice: object
):
    body = {"model": "tts-1", "input": "Hi.", "voice": voice}
    answer = await live.post("/v1/audio/speech", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "voice"
    assert answer.json()["error"]["message"].count("voice:") == 1


async def test_an_unknown_model_is_a_404_that_lists_the_known_ones(client: openai.AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.audio.speech.create(model="gpt-9", input="Hi.", voice="alto")
    assert caught.value.code == "model_not_found"
    assert "tts-1" in caught.value.message


async def test_errors_become_the_librarys_own(client: openai.AsyncOpenAI, engine: FakeEngineClient):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.speech.create(model="tts-1", input="", voice="alto")
    assert (caught.value.param, caught.value.code) == ("input", "invalid_text")
    assert caught.value.request_id
    unknown: Any = "ogg"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.speech.create(
            model="tts-1", input="Hi.", voice="alto", response_format=unknown
        )
    assert caught.value.param == "response_format"
    engine.num_refusals = 1
    with pytest.raises(openai.RateLimitError) as caught:
        await client.audio.speech.create(model="tts-1", input="Hi.", voice="alto")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    engine.fail_at_frame = 0
    with pytest.raises(openai.InternalServerError) as caught:
        await client.audio.speech.create(model="tts-1", input="Hey.", voice="alto")
    assert caught.value.type == "server_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/audio/speech", 405),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/models/nothing", 404),
        ("POST", "/v1/audio/speech", 400),
    ],
)
async def test_every_error_below_v1_has_openais_envelope(
    live: httpx.AsyncClient, method: str, path: str, status: int
):
    answer = await live.request(method, path, content=b"{" if method == "POST" else b"")
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_body_that_is_too_large_has_openais_envelope(live: httpx.AsyncClient):
    answer = await live.post("/v1/audio/speech", content=b"x" * (3 << 20))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


async def test_what_has_no_effect_is_said(client: openai.AsyncOpenAI):
    answer = await client.audio.speech.create(
        model="tts-1",
        input="Hi.",
        voice="alto",
        instructions="Whisper.",
        extra_body={"lang_code": "en", "grüße": 1},
    )
    warning = answer.response.headers["x-warning"]
    assert "instructions" in warning
    assert "lang_code" in warning


async def test_our_own_fields_reach_the_engine(
    client: openai.AsyncOpenAI, engine: FakeEngineClient
):
    await client.audio.speech.create(
        model="tts-1",
        input="Hi.",
        voice="alto",
        extra_body={"seed": 7, "temperature": 0.5, "top_p": 0.6, "repetition_penalty": 1.3},
    )
    sampling = engine.requests[0].sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p) == (7, 0.5, 0.6)
    assert sampling.repetition_penalty == 1.3


async def test_models_are_listed_under_all_their_names(client: openai.AsyncOpenAI):
    models = await client.models.list()
    names = [model.id for model in models.data]
    assert names == ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert (await client.models.retrieve("tts-1")).owned_by == "self-hosted"


async def test_models_for_open_webui(live: httpx.AsyncClient):
    answer = (await live.get("/v1/audio/models")).json()
    assert {"id": "tts-1", "name": "tts-1"} in answer["models"]


async def test_many_requests_at_a_time_all_get_their_own_speech(client: openai.AsyncOpenAI):
    texts = [f"Sentence number {number}." * (1 + number % 3) for number in range(8)]
    answers = await asyncio.gather(
        *(
            client.audio.speech.create(
                model="tts-1", input=text, voice="alto", response_format="pcm"
            )
            for text in texts
        )
    )
    for text, answer in zip(texts, answers, strict=True):
        expected_s = len(text) * FRAMES_PER_CHARACTER / FAKE_INFO.frame_rate
        assert duration_s(answer.content, "pcm", 24_000) == pytest.approx(expected_s, abs=0.01)


@pytest.mark.parametrize("shape", SHAPES["openai"], ids=lambda shape: shape["client"])
async def test_requests_as_well_known_clients_send_them(
    live: httpx.AsyncClient, shape: dict[str, Any]
):
    answer = await live.post("/v1/audio/speech", json=shape["body"], headers=shape["headers"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == shape["media_type"]
    assert answer.content
