"""The official clients against a server on a real port that really speaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fishaudio
import numpy as np
import openai
import pytest
import uvicorn

from backend.app import create_app
from backend.core.settings import Settings
from tests.clients import duration_s, fish_client, openai_client, sound_of

TEXT = "A small bird was singing in the garden."
SENTENCES = ["A small bird was singing.", " It sang in the garden.", " Then it flew away."]
VOICE = "sally"
SEED = 1


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        device="cpu",
        cpu_threads=1,
        engine_isolation="thread",
        data_dir=Path(tmp_path_factory.mktemp("data")),
    )
    server = _Server(
        uvicorn.Config(create_app(settings), port=0, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.has_begun.wait(60)
        found = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        _wait_until_ready(found)
        yield found
    finally:
        server.should_exit = True
        thread.join(30)


class _Server(uvicorn.Server):
    """Tells other threads when it listens, or that it never will."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_begun = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_begun.set()


def _wait_until_ready(address: str) -> None:
    with openai_client(address) as client:
        while client._client.get(f"{address}/health/ready").status_code != 200:
            assert client._client.get(f"{address}/health").json()["status"] != "failed"


@pytest.fixture(scope="module")
def whole_s(address: str) -> float:
    """How long the sentence takes, from the service's own format without any loss."""
    with openai_client(address) as client:
        answer = client._client.post(
            f"{address}/tts",
            json={"text": TEXT, "voice": VOICE, "seed": SEED, "format": "wav", "stream": False},
        )
    return float(answer.headers["X-Audio-Duration-S"])


@pytest.mark.parametrize("format_name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_openai_gets_every_format_in_the_right_duration(
    address: str, whole_s: float, format_name: Any
):
    with openai_client(address) as client:
        answer = client.audio.speech.create(
            model="tts-1",
            input=TEXT,
            voice=VOICE,
            response_format=format_name,
            extra_body={"seed": SEED},
        )
    assert whole_s > 1.0
    slack_s = 0.2 if format_name == "aac" else 0.1
    assert duration_s(answer.content, format_name, 24_000) == pytest.approx(whole_s, abs=slack_s)
    samples, _ = sound_of(answer.content, format_name, 24_000)
    assert np.abs(samples).max() > 0.02


@pytest.mark.parametrize("format_name", ["mp3", "wav", "pcm", "opus"])
def test_fish_gets_every_format_of_the_same_sentence(address: str, format_name: Any):
    with fish_client(address) as client:
        content = client.tts.convert(text=TEXT, reference_id=VOICE, format=format_name)
    info_rate_hz = _model_rate_hz(address)
    assert 1.0 < duration_s(content, format_name, info_rate_hz) < 8.0
    samples, _ = sound_of(content, format_name, info_rate_hz)
    assert np.abs(samples).max() > 0.02


def _model_rate_hz(address: str) -> int:
    with openai_client(address) as client:
        body = {"text": "Hi.", "voice": VOICE, "seed": SEED}
        return int(client._client.post(f"{address}/tts", json=body).headers["X-Sample-Rate"])


def test_openai_hears_sound_before_the_end(address: str):
    with (
        openai_client(address) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", input=" ".join([TEXT] * 2), voice=VOICE, response_format="pcm"
        ) as answer,
    ):
        chunks = answer.iter_bytes()
        first = next(chunks)
        rest = b"".join(chunks)
    assert len(first) < len(rest) / 4


def test_fish_hears_sound_before_it_has_stopped_writing(address: str):
    has_audio = threading.Event()

    def write() -> Iterator[str]:
        yield SENTENCES[0]
        yield SENTENCES[1]
        assert has_audio.wait(60)
        yield SENTENCES[2]

    content = b""
    with fish_client(address) as client:
        for chunk in client.tts.stream_websocket(write(), reference_id=VOICE, format="wav"):
            has_audio.set()
            content += chunk
    assert 2.0 < duration_s(content, "wav", 0) < 15.0


def test_openais_voices_speak_and_are_not_all_the_same(address: str):
    with openai_client(address) as client:
        answers = {
            alias: client.audio.speech.create(
                model="tts-1", input="Hello.", voice=alias, extra_body={"seed": SEED}
            )
            for alias in ("alloy", "onyx", "nova")
        }
    voices = {answer.response.headers["x-voice"] for answer in answers.values()}
    assert voices == {"kit", "bruno", "stella"}
    assert all("x-warning" not in answer.response.headers for answer in answers.values())


def test_errors_are_the_libraries_own(address: str):
    with openai_client(address) as client, pytest.raises(openai.NotFoundError, match=VOICE):
        client.audio.speech.create(model="tts-1", input=TEXT, voice="nobody")
    with fish_client(address) as client, pytest.raises(fishaudio.NotFoundError, match=VOICE):
        client.tts.convert(text=TEXT, reference_id="nobody")
