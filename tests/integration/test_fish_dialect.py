"""Fish Audio's dialect, asked by ``fish-audio-sdk`` (both its packages) on a real port."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fishaudio
import httpx
import numpy as np
import ormsgpack
import pytest
from fish_audio_sdk import HttpCodeErr
from fish_audio_sdk import TTSRequest as OldRequest
from fishaudio import AsyncFishAudio
from fishaudio.types import Prosody, ReferenceAudio, TTSConfig

from tests.clients import async_fish_client, duration_s, fish_client, old_fish_client
from tests.conftest import file_of, tone
from tests.fakes import FAKE_INFO, FRAMES_PER_CHARACTER, FakeEngineClient, fake_reference_codes

TEXT = "Hello there, how are you today?"
TEXT_S = len(TEXT) * FRAMES_PER_CHARACTER / FAKE_INFO.frame_rate
PCM_RATE_HZ = FAKE_INFO.sample_rate
SHAPES = json.loads((Path(__file__).parents[1] / "data" / "client_requests.json").read_text())
MSGPACK = {"Content-Type": "application/msgpack"}


def address_of(live: httpx.AsyncClient) -> str:
    return str(live.base_url).rstrip("/")


@pytest.fixture
async def client(live: httpx.AsyncClient) -> AsyncIterator[AsyncFishAudio]:
    async with async_fish_client(address_of(live)) as opened:
        yield opened


@pytest.mark.parametrize("format_name", ["mp3", "wav", "pcm", "opus"])
async def test_every_format_decodes_to_the_right_duration(client: AsyncFishAudio, format_name: Any):
    content = await client.tts.convert(text=TEXT, reference_id="alto", format=format_name)
    found_s = duration_s(content, format_name, PCM_RATE_HZ)
    assert found_s == pytest.approx(TEXT_S, abs=0.1)


async def test_the_synchronous_client_works_too(live: httpx.AsyncClient):
    with fish_client(address_of(live)) as client:
        content = await asyncio.to_thread(client.tts.convert, text=TEXT, reference_id="alto")
    assert duration_s(content, "mp3", 0) == pytest.approx(TEXT_S, abs=0.1)


async def test_the_older_package_works_too(live: httpx.AsyncClient):
    def ask() -> bytes:
        with old_fish_client(address_of(live)) as client:
            request = OldRequest(text=TEXT, reference_id="alto", format="wav")
            return b"".join(client.tts(request))

    assert duration_s(await asyncio.to_thread(ask), "wav", 0) == pytest.approx(TEXT_S, abs=0.01)


async def test_speed_volume_and_sample_rate_are_honored(
    client: AsyncFishAudio, engine: FakeEngineClient
):
    config = TTSConfig(
        format="pcm", sample_rate=8000, prosody=Prosody(speed=2.0, volume=-20.0), top_p=0.0
    )
    content = await client.tts.convert(text=TEXT, reference_id="alto", config=config)
    samples = np.frombuffer(content, "<i2") / 32767
    assert samples.size / 8000 == pytest.approx(TEXT_S / 2, rel=0.1)
    assert 0.03 < np.abs(samples).max() < 0.1  # the fake speaks at half of full scale
    assert engine.requests[0].sampling.top_p > 0


@pytest.mark.parametrize(("format_name", "rates"), [("mp3", (64, 192)), ("opus", (24, 64))])
async def test_bit_rates_are_honored(
    client: AsyncFishAudio, format_name: Any, rates: tuple[int, int]
):
    sizes: list[int] = []
    for rate in rates:
        bitrate: dict[str, Any] = {f"{format_name}_bitrate": rate}
        config = TTSConfig(sample_rate=48_000, **bitrate)
        content = await client.tts.convert(
            text=TEXT * 4, reference_id="alto", format=format_name, config=config
        )
        sizes.append(len(content))
    assert sizes[1] > 1.8 * sizes[0]


async def test_recordings_inline_are_the_voice(client: AsyncFishAudio, engine: FakeEngineClient):
    files = [file_of(tone(2.0)), file_of(tone(3.0, frequency_hz=330.0))]
    references = [
        ReferenceAudio(audio=content, text=f"Sample {idx}.") for idx, content in enumerate(files)
    ]
    await client.tts.convert(text=TEXT, references=references)
    turns = engine.requests[0].turns
    assert [turn.text for turn in turns] == ["Sample 0.", "Sample 1."]
    assert [turn.codes.shape[1] for turn in turns] == [100, 150]


async def test_recordings_in_json_are_base64(live: httpx.AsyncClient, engine: FakeEngineClient):
    audio = base64.b64encode(file_of(tone(2.0))).decode()
    body = {"text": TEXT, "references": [{"audio": audio, "text": "Sample."}]}
    assert (await live.post("/v1/tts", json=body)).status_code == 200
    assert engine.requests[0].turns[0].text == "Sample."
    refused = await live.post("/v1/tts", json={"text": TEXT, "references": [{"audio": "no!"}]})
    assert refused.status_code == 422
    assert "base64" in refused.json()["message"]


async def test_a_voice_by_id_comes_before_recordings_and_the_answer_says_so(
    live: httpx.AsyncClient,
):
    recording = {"audio": file_of(tone(2.0)), "text": "Sample."}
    body = {"text": TEXT, "references": [recording], "reference_id": "basso"}
    answer = await live.post("/v1/tts", content=ormsgpack.packb(body), headers=MSGPACK)
    assert answer.headers["x-voice"] == "basso"
    assert "references have no effect" in answer.headers["x-warning"]


async def test_a_list_of_one_id_is_a_voice_and_more_are_refused(live: httpx.AsyncClient):
    answer = await live.post("/v1/tts", json={"text": TEXT, "reference_id": ["basso"]})
    assert answer.headers["x-voice"] == "basso"
    refused = await live.post("/v1/tts", json={"text": TEXT, "reference_id": ["basso", "alto"]})
    assert refused.status_code == 400
    assert "one id" in refused.json()["message"]


async def test_what_libraries_send_unasked_is_no_warning(live: httpx.AsyncClient):
    sent = TTSConfig().model_dump(exclude_none=True)
    body = {**sent, "text": TEXT, "reference_id": "alto"}
    usual = await live.post("/v1/tts", content=ormsgpack.packb(body), headers=MSGPACK)
    assert usual.status_code == 200
    assert "x-warning" not in usual.headers
    asked = {**body, "chunk_length": 300, "condition_on_previous_chunks": False, "new_field": 1}
    told = await live.post("/v1/tts", content=ormsgpack.packb(asked), headers=MSGPACK)
    warning = told.headers["x-warning"]
    assert "chunk_length=300" in warning
    assert "condition_on_previous_chunks=False" in warning
    assert "new_field" in warning
    assert "latency" not in warning


@pytest.mark.parametrize("model", ["s1", "s2-pro", "speech-1.5", "whatever"])
async def test_any_model_header_is_accepted(live: httpx.AsyncClient, model: str):
    body = {"text": "Hi.", "reference_id": "alto"}
    assert (await live.post("/v1/tts", json=body, headers={"model": model})).status_code == 200


async def test_sound_flows_before_the_end(live: httpx.AsyncClient, engine: FakeEngineClient):
    engine.permits = asyncio.Semaphore(2)
    body = {"text": TEXT, "format": "pcm"}
    async with live.stream("POST", "/v1/tts", json=body) as answer:
        chunks = answer.aiter_bytes()
        assert await anext(chunks)
        assert not engine.idle.is_set()
        for _ in range(100):
            engine.permits.release()
        assert [chunk async for chunk in chunks]


async def test_errors_become_the_librarys_own(client: AsyncFishAudio, engine: FakeEngineClient):
    with pytest.raises(fishaudio.NotFoundError) as caught:
        await client.tts.convert(text=TEXT, reference_id="nobody")
    assert "alto" in caught.value.message
    with pytest.raises(fishaudio.APIError) as refused:
        await client.tts.convert(text="")
    assert refused.value.status == 400
    engine.num_refusals = 1
    with pytest.raises(fishaudio.RateLimitError):
        await client.tts.convert(text=TEXT)
    engine.fail_at_frame = 0
    with pytest.raises(fishaudio.ServerError):
        await client.tts.convert(text="Another text.")


async def test_errors_of_the_older_package_have_their_message(live: httpx.AsyncClient):
    def ask() -> None:
        with old_fish_client(address_of(live)) as client:
            client.list_models(page_size=-1)

    with pytest.raises(HttpCodeErr) as caught:
        await asyncio.to_thread(ask)
    assert caught.value.status == 422
    assert "page_size" in caught.value.message


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/v1/tts", b"", 405),
        ("POST", "/v1/tts", b"\xc1", 400),
        ("POST", "/v1/tts", ormsgpack.packb([1, 2]), 422),
        ("POST", "/v1/tts", ormsgpack.packb({"text": 5}), 422),
        ("POST", "/v1/tts", b"x" * (3 << 20), 413),
        ("GET", "/model/nobody", b"", 404),
        ("GET", "/wallet/nothing", b"", 404),
        ("POST", "/v1/asr", b"", 501),
        ("POST", "/v1/vqgan/encode", ormsgpack.packb({"audios": []}), 422),
        ("POST", "/v1/vqgan/decode", ormsgpack.packb({"tokens": [[[1], [1, 2]]]}), 400),
    ],
)
async def test_every_error_is_status_and_message_and_nothing_else(
    live: httpx.AsyncClient, method: str, path: str, content: bytes, status: int
):
    answer = await live.request(method, path, content=content, headers=MSGPACK)
    assert answer.status_code == status
    body = answer.json()
    assert set(body) == {"status", "message"}
    assert body["status"] == status
    assert body["message"]


async def test_an_unknown_media_type_is_refused(live: httpx.AsyncClient):
    answer = await live.post("/v1/tts", content=b"text=Hi", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert "application/msgpack" in answer.json()["message"]


async def test_recognition_is_said_not_to_be_offered(client: AsyncFishAudio):
    with pytest.raises(fishaudio.ServerError, match="not offered"):
        await client.asr.transcribe(audio=b"sound")


async def test_the_account_is_unlimited(client: AsyncFishAudio, live: httpx.AsyncClient):
    assert (await client.account.get_credits()).credit > 10**6
    package = await client.account.get_package()
    assert package.balance == package.total
    assert package.type == "self-hosted"

    def ask() -> int:
        with old_fish_client(address_of(live)) as old:
            return old.get_package().total

    assert await asyncio.to_thread(ask) == package.total


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_health_answers_as_the_official_server_does(live: httpx.AsyncClient, method: str):
    answer = await live.request(method, "/v1/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_recordings_become_codes_and_codes_become_sound(live: httpx.AsyncClient):
    content = ormsgpack.packb({"audios": [file_of(tone(1.0)), file_of(tone(2.0))]})
    encoded = await live.post("/v1/vqgan/encode", content=content, headers=MSGPACK)
    tokens = ormsgpack.unpackb(encoded.content)["tokens"]
    expected = fake_reference_codes(tone(2.0))
    assert np.abs(np.asarray(tokens[1]) - expected).max() <= 1  # a WAV rounds to 16 bits
    decoded = await live.post(
        "/v1/vqgan/decode", content=ormsgpack.packb({"tokens": tokens}), headers=MSGPACK
    )
    audios = [np.frombuffer(item, "<f2") for item in ormsgpack.unpackb(decoded.content)["audios"]]
    assert [audio.size for audio in audios] == [16_000, 32_000]
    assert 0.4 < np.abs(audios[0]).max() < 0.6


async def test_codes_travel_as_json_too(live: httpx.AsyncClient):
    tokens = [[[1, 2], [3, 4], [5, 6]]]
    decoded = await live.post("/v1/vqgan/decode", json={"tokens": tokens})
    content = base64.b64decode(decoded.json()["audios"][0])
    assert len(content) == 2 * 2 * FAKE_INFO.frame_length
    refused = await live.post("/v1/vqgan/decode", json={"tokens": [[[1], [99], [1]]]})
    assert refused.status_code == 400
    assert "codebook" in refused.json()["message"]


async def test_many_requests_at_a_time_all_get_their_own_speech(client: AsyncFishAudio):
    texts = [f"Sentence number {number}." * (1 + number % 3) for number in range(8)]
    contents = await asyncio.gather(
        *(client.tts.convert(text=text, reference_id="alto", format="pcm") for text in texts)
    )
    for text, content in zip(texts, contents, strict=True):
        expected_s = len(text) * FRAMES_PER_CHARACTER / FAKE_INFO.frame_rate
        assert duration_s(content, "pcm", PCM_RATE_HZ) == pytest.approx(expected_s, abs=0.01)


@pytest.mark.parametrize("shape", SHAPES["fish"], ids=lambda shape: shape["client"])
@pytest.mark.parametrize("is_msgpack", [True, False], ids=["msgpack", "json"])
async def test_requests_as_well_known_clients_send_them(
    live: httpx.AsyncClient, shape: dict[str, Any], is_msgpack: bool
):
    content = ormsgpack.packb(shape["body"]) if is_msgpack else json.dumps(shape["body"]).encode()
    media_type = "application/msgpack" if is_msgpack else "application/json"
    answer = await live.post("/v1/tts", content=content, headers={"Content-Type": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == shape["media_type"]
    assert answer.content
