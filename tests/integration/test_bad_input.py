"""Every bad input is a clear 4xx JSON error, and the server goes on serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from backend.audio.encoders import encode_whole
from tests.conftest import file_of, tone
from tests.fakes import FakeEngineClient

MIB = 1 << 20
TEXT = {"text": "Hello there."}


def upload(content: bytes, name: str = "me.wav", **fields: str) -> dict[str, Any]:
    return {"data": {**TEXT, **fields}, "files": {"speaker_file": (name, content)}}


def raw_json(text: str) -> dict[str, Any]:
    return {"content": text, "headers": {"Content-Type": "application/json"}}


MP3 = encode_whole("mp3", tone(3.0), 16_000)
SILENCE = file_of(np.zeros(32_000, np.float32))

BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str, str | None, str]] = {
    # what is sent, status, type, param, what the message says
    "empty text": ({"json": {"text": ""}}, 400, "invalid_text", "text", "empty"),
    "empty text in a form": ({"data": {"text": ""}}, 400, "invalid_text", "text", "empty"),
    "blank text": ({"json": {"text": " \n "}}, 400, "invalid_text", "text", "empty"),
    "only emoji": ({"json": {"text": "🎉🎉"}}, 400, "invalid_text", "text", "nothing to speak"),
    "1 MB of text": (
        {"json": {"text": "word " * 200_000}},
        *(400, "invalid_text", "text", "1000000 characters; the limit is 10000"),
    ),
    "1.5 MB of text in a form": (
        {"data": {"text": "word " * 300_000}, "files": {"speaker_file": ("", b"")}},
        *(400, "invalid_text", "text", "1500000 characters; the limit is 10000"),
    ),
    "no text": ({"json": {"seed": 1}}, 422, "invalid_request", "text", "Field required"),
    "no text in a form": ({"data": {"seed": "1"}}, 422, "invalid_request", "text", "required"),
    "text is a number": ({"json": {"text": 5}}, 422, "invalid_request", "text", "valid string"),
    "text is null": ({"json": {"text": None}}, 422, "invalid_request", "text", "valid string"),
    "text is a file": (
        {"files": {"text": ("t.txt", b"Hello")}},
        *(422, "invalid_request", "text", "plain text"),
    ),
    "a text file as audio": (
        upload(b"This is no audio at all.\n" * 100, "notes.txt"),
        *(400, "invalid_audio", "speaker_file", "not"),
    ),
    "0-byte upload": (upload(b""), 400, "invalid_audio", "speaker_file", "empty (0 bytes)"),
    "truncated mp3": (
        upload(MP3[: len(MP3) // 2], "half.mp3"),
        *(400, "invalid_audio", "speaker_file", "truncated"),
    ),
    "truncated wav": (
        upload(file_of(tone(3.0))[:20_000]),
        *(400, "invalid_audio", "speaker_file", "truncated"),
    ),
    "too short": (upload(file_of(tone(0.2))), 400, "invalid_audio", "speaker_file", "too short"),
    "silent": (upload(SILENCE), 400, "invalid_audio", "speaker_file", "silent"),
    "too long": (
        upload(file_of(tone(95.0, rate_hz=8000), rate_hz=8000)),
        *(400, "audio_too_long", "speaker_file", "at most 90 s"),
    ),
    "recording as text": (
        {"data": {**TEXT, "speaker_file": "me.wav"}},
        *(422, "invalid_request", "speaker_file", "must be an uploaded file"),
    ),
    "recording in JSON": (
        {"json": {**TEXT, "speaker_file": "UklGRg=="}},
        *(422, "invalid_request", "speaker_file", "multipart/form-data"),
    ),
    "NaN temperature": (
        raw_json('{"text": "Hi.", "temperature": NaN}'),
        *(422, "invalid_request", "temperature", "finite number"),
    ),
    "NaN temperature in a form": (
        {"data": {**TEXT, "temperature": "nan"}},
        *(422, "invalid_request", "temperature", "finite number"),
    ),
    "infinite top_p": (
        {"data": {**TEXT, "top_p": "inf"}},
        *(422, "invalid_request", "top_p", "finite"),
    ),
    "hot": ({"json": {**TEXT, "temperature": 2.1}}, 422, "invalid_request", "temperature", "2"),
    "top_p of 0": ({"json": {**TEXT, "top_p": 0}}, 422, "invalid_request", "top_p", "greater"),
    "negative top_k": ({"json": {**TEXT, "top_k": -1}}, 422, "invalid_request", "top_k", "0"),
    "penalty of 0": (
        {"json": {**TEXT, "repetition_penalty": 0}},
        *(422, "invalid_request", "repetition_penalty", "greater than 0"),
    ),
    "too many frames": (
        {"json": {**TEXT, "max_new_tokens": 10**9}},
        *(422, "invalid_request", "max_new_tokens", "32768"),
    ),
    "negative seed": ({"json": {**TEXT, "seed": -1}}, 422, "invalid_request", "seed", "0"),
    "seed of 33 bits": ({"json": {**TEXT, "seed": 2**32}}, 422, "invalid_request", "seed", "4294"),
    "fractional seed": ({"json": {**TEXT, "seed": 1.5}}, 422, "invalid_request", "seed", "integer"),
    "words as number": (
        {"data": {**TEXT, "temperature": "hot"}},
        *(422, "invalid_request", "temperature", "got 'hot'"),
    ),
    "number as string": (
        {"json": {**TEXT, "temperature": "0.5"}},
        *(422, "invalid_request", "temperature", "valid number"),
    ),
    "true as number": (
        {"json": {**TEXT, "top_p": True}},
        422,
        "invalid_request",
        "top_p",
        "number",
    ),
    "list as text": ({"json": {"text": ["a"]}}, 422, "invalid_request", "text", "valid string"),
    "maybe stream": (
        {"data": {**TEXT, "stream": "maybe"}},
        *(422, "invalid_request", "stream", "boolean"),
    ),
    "unknown voice": (
        {"json": {**TEXT, "voice": "tenor"}},
        *(404, "voice_not_found", "voice", "known voices: alto, basso"),
    ),
    "unknown format": (
        {"json": {**TEXT, "format": "midi"}},
        *(400, "unsupported_format", "format", "wav, pcm, mp3"),
    ),
    "unknown field": (
        {"json": {**TEXT, "pitch": 2}},
        *(422, "invalid_request", "pitch", "not a known field; the fields are text, voice"),
    ),
    "unknown field in a form": (
        {"data": {**TEXT, "pitch": "2"}},
        *(422, "invalid_request", "pitch", "not a known field"),
    ),
    "field given twice": (
        {"data": {"text": ["one", "two"]}},
        *(422, "invalid_request", "text", "more than once"),
    ),
    "voice and recording": (
        upload(file_of(tone(2.0)), voice="alto"),
        *(400, "invalid_input", None, "send one of the two"),
    ),
    "transcript without recording": (
        {"json": {**TEXT, "prompt_text": "Hello."}},
        *(400, "invalid_input", None, "send speaker_file too"),
    ),
    "endless transcript": (
        upload(file_of(tone(2.0)), prompt_text="word " * 3000),
        *(400, "invalid_input", None, "prompt_text has 14999 characters"),
    ),
    "broken JSON": (raw_json('{"text": '), 422, "invalid_request", None, "Invalid JSON"),
    "JSON that is no object": (raw_json('"hi"'), 422, "invalid_request", None, "object"),
    "deep JSON": (raw_json("[" * 10_000), 422, "invalid_request", None, "Invalid JSON"),
    "broken UTF-8": (
        {"content": b'{"text": "\xff"}', "headers": {"Content-Type": "application/json"}},
        *(422, "invalid_request", None, "Invalid JSON"),
    ),
    "no body": (raw_json(""), 422, "invalid_request", "text", "required"),
    "no media type": ({"content": b"hello"}, 415, "unsupported_media_type", None, "multipart"),
    "other media type": (
        {"content": b"<a/>", "headers": {"Content-Type": "text/xml"}},
        *(415, "unsupported_media_type", None, "'text/xml' is not read"),
    ),
    "form without boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        *(400, "bad_request", None, "boundary"),
    ),
    "broken form": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        *(400, "bad_request", None, ""),
    ),
    "huge upload": (
        upload(b"x" * (3 * MIB)),
        *(413, "payload_too_large", None, "larger than 2 MiB"),
    ),
    "huge JSON": (
        {"json": {"text": "x" * (3 * MIB)}},
        *(413, "payload_too_large", None, "larger than 2 MiB"),
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_is_explained_and_the_next_one_served(
    client: TestClient, engine: FakeEngineClient, case: str
):
    sent, status, error_type, param, message = BAD_REQUESTS[case]
    answer = client.post("/tts", **sent)
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, error_type, param)
    assert message in error["message"]
    assert len(error["message"]) < 600
    assert error["request_id"] == answer.headers["X-Request-Id"]
    assert engine.requests == []
    assert client.post("/tts", json=TEXT).status_code == 200


def test_refused_requests_are_counted(client: TestClient):
    client.post("/tts", json={"text": ""})
    client.post("/tts", json={"txt": ""})
    requests = client.get("/metrics").json()["requests"]
    assert requests["by_status"]["rejected"] == 2
    assert requests["in_progress"] == 0


def test_body_without_length_is_counted_while_it_comes(client: TestClient):
    def pieces() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(48):
            yield b"x" * (MIB // 16)

    answer = client.post("/tts", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "payload_too_large"


def test_several_faults_are_all_named(client: TestClient):
    answer = client.post("/tts", json={"text": 1, "seed": "x", "loud": True})
    message = answer.json()["error"]["message"]
    assert all(f"{name}: " in message for name in ("text", "seed", "loud"))


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/tts", 405, "method_not_allowed"),
        ("DELETE", "/voices", 405, "method_not_allowed"),
        ("GET", "/metrics/requests/unknown-id", 404, "request_not_found"),
        ("GET", "/metrics/requests?limit=0", 422, "invalid_request"),
        ("GET", "/metrics/requests?limit=x", 422, "invalid_request"),
    ],
)
def test_wrong_places_are_answered_in_the_same_shape(
    client: TestClient, method: str, path: str, status: int, error_type: str
):
    answer = client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, error_type)
    assert set(error) == {"type", "message", "param", "request_id"}


@pytest.mark.parametrize(
    "body", [{"cache": "disk"}, {"cache": 1}, {"what": "all"}, ["all"]], ids=json.dumps
)
def test_cache_that_is_none_is_refused(client: TestClient, body: object):
    assert client.post("/cache/clear", json=body).status_code == 422
