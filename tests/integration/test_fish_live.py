"""``/v1/tts/live``: text is spoken while it is written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import fishaudio
import httpx
import ormsgpack
import pytest
from fish_audio_sdk import TTSRequest as OldRequest
from fishaudio import AsyncFishAudio
from fishaudio.types import FlushEvent
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws

from tests.clients import (
    async_fish_client,
    duration_s,
    fish_client,
    old_async_fish_socket,
    old_fish_socket,
)
from tests.fakes import FAKE_INFO, FRAMES_PER_CHARACTER, FakeEngineClient

PCM_RATE_HZ = FAKE_INFO.sample_rate
JOINS_S = 0.1  # a space is spoken between sentences that share a segment
SENTENCES = ["The first sentence is here.", " A second one follows it.", " The third ends it."]


def spoken_s(*texts: str) -> float:
    characters = sum(len(text.strip()) for text in texts)
    return characters * FRAMES_PER_CHARACTER / FAKE_INFO.frame_rate


def address_of(live: httpx.AsyncClient) -> str:
    return str(live.base_url).rstrip("/")


class Connection:
    """A client that sends and reads single events."""

    def __init__(self, socket: AsyncWebSocketSession) -> None:
        self.socket = socket

    async def send(self, kind: str, **content: Any) -> None:
        await self.socket.send_bytes(ormsgpack.packb({"event": kind, **content}))

    async def start(self, **request: Any) -> None:
        whole = {"text": "", "format": "pcm", "reference_id": "alto", **request}
        await self.send("start", request=whole)

    async def receive(self) -> dict[str, Any]:
        return ormsgpack.unpackb(await self.socket.receive_bytes(timeout=20))

    async def rest(self) -> tuple[bytes, dict[str, Any]]:
        """Give all audio that comes, and the finish."""
        audio = b""
        while True:
            event = await self.receive()
            if event["event"] == "finish":
                return audio, event
            audio += event.get("audio", b"")


@asynccontextmanager
async def connect(live: httpx.AsyncClient) -> AsyncIterator[Connection]:
    async with (
        httpx.AsyncClient(base_url=address_of(live), trust_env=False) as http,
        aconnect_ws("/v1/tts/live", client=http) as socket,
    ):
        yield Connection(socket)


@pytest.fixture
async def client(live: httpx.AsyncClient) -> AsyncIterator[AsyncFishAudio]:
    async with async_fish_client(address_of(live)) as opened:
        yield opened


async def written(*pieces: Any) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("format_name", ["mp3", "wav", "pcm", "opus"])
async def test_all_audio_joined_is_one_file(client: AsyncFishAudio, format_name: Any):
    chunks = client.tts.stream_websocket(
        written(*SENTENCES), reference_id="alto", format=format_name
    )
    content = b"".join([chunk async for chunk in chunks])
    found_s = duration_s(content, format_name, PCM_RATE_HZ)
    assert found_s == pytest.approx(spoken_s(*SENTENCES), abs=0.25)


async def test_audio_comes_before_the_text_ends(client: AsyncFishAudio):
    has_audio = asyncio.Event()

    async def write() -> AsyncIterator[str]:
        yield SENTENCES[0]
        yield SENTENCES[1]
        await has_audio.wait()  # the text goes on only when something was heard
        yield SENTENCES[2]

    content = b""
    async with asyncio.timeout(20):
        async for chunk in client.tts.stream_websocket(write(), reference_id="alto", format="pcm"):
            has_audio.set()
            content += chunk
    assert duration_s(content, "pcm", PCM_RATE_HZ) == pytest.approx(
        spoken_s(*SENTENCES), abs=JOINS_S
    )


async def test_a_flush_speaks_an_unfinished_sentence(client: AsyncFishAudio):
    has_audio = asyncio.Event()

    async def write() -> AsyncIterator[str | FlushEvent]:
        yield "Half a sentence"
        yield FlushEvent()
        await has_audio.wait()

    async with asyncio.timeout(20):
        async for _ in client.tts.stream_websocket(write(), reference_id="alto", format="pcm"):
            has_audio.set()
    assert has_audio.is_set()


async def test_the_synchronous_client_hears_before_it_has_finished_writing(
    live: httpx.AsyncClient,
):
    has_audio = threading.Event()

    def write() -> Iterator[str]:
        yield from SENTENCES[:2]
        assert has_audio.wait(20)
        yield SENTENCES[2]

    def ask() -> bytes:
        content = b""
        with fish_client(address_of(live)) as client:
            for chunk in client.tts.stream_websocket(write(), reference_id="alto", format="pcm"):
                has_audio.set()
                content += chunk
        return content

    content = await asyncio.to_thread(ask)
    assert duration_s(content, "pcm", PCM_RATE_HZ) == pytest.approx(
        spoken_s(*SENTENCES), abs=JOINS_S
    )


async def test_the_older_package_works_too(live: httpx.AsyncClient):
    request = OldRequest(text="", reference_id="alto", format="wav")

    def ask() -> bytes:
        with old_fish_socket(address_of(live)) as client:
            return b"".join(client.tts(request, SENTENCES))

    content = await asyncio.to_thread(ask)
    async with old_async_fish_socket(address_of(live)) as client:
        again = b"".join([chunk async for chunk in client.tts(request, written(*SENTENCES))])
    for file in (content, again):
        assert duration_s(file, "wav", 0) == pytest.approx(spoken_s(*SENTENCES), abs=JOINS_S)


async def test_later_sentences_continue_the_voice_of_the_first(
    client: AsyncFishAudio, engine: FakeEngineClient
):
    async def write() -> AsyncIterator[str]:
        yield SENTENCES[0]
        yield SENTENCES[1]
        await engine.has_request.wait()  # else the sentences may pile up and be spoken as one
        yield SENTENCES[2]

    async with asyncio.timeout(20):
        async for _ in client.tts.stream_websocket(write(), reference_id="alto"):
            pass
    assert engine.requests[0].text == SENTENCES[0]
    assert engine.requests[1].turns[-1].text == SENTENCES[0]


async def test_a_text_without_words_ends_without_a_sound(client: AsyncFishAudio):
    for pieces in ((), ("  ", "..."), ("!",)):
        chunks = client.tts.stream_websocket(written(*pieces), reference_id="alto")
        assert [chunk async for chunk in chunks] == []


async def test_text_in_the_start_event_is_spoken_too(live: httpx.AsyncClient):
    async with connect(live) as connection:
        await connection.start(text=SENTENCES[0])
        await connection.send("stop")
        audio, finish = await connection.rest()
    assert finish["reason"] == "stop"
    assert duration_s(audio, "pcm", PCM_RATE_HZ) == pytest.approx(spoken_s(SENTENCES[0]), abs=0.01)


async def test_a_connection_holds_no_place_while_it_waits_for_text(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    async with connect(live) as connection:
        await connection.start()
        await connection.send("text", text=SENTENCES[0])
        await connection.send("flush")
        assert (await connection.receive())["event"] == "audio"
        async with asyncio.timeout(10):
            await engine.idle.wait()
        await connection.send("stop")
        assert (await connection.rest())[1]["reason"] == "stop"


async def test_a_client_that_leaves_frees_its_place(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(1)
    async with connect(live) as connection:
        await connection.start(text=SENTENCES[0])
        await connection.send("flush")
        await engine.has_request.wait()
        assert not engine.idle.is_set()
    async with asyncio.timeout(10):
        await engine.idle.wait()


async def test_pings_are_answered_while_it_speaks(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(0)
    async with connect(live) as connection:
        await connection.start(text=SENTENCES[0])
        await connection.send("stop")
        await engine.has_request.wait()
        pong = await connection.socket.ping()
        async with asyncio.timeout(10):
            await pong.wait()
        for _ in range(100):
            engine.permits.release()
        assert (await connection.rest())[1]["reason"] == "stop"


async def test_an_unknown_voice_ends_with_an_error(client: AsyncFishAudio, live: httpx.AsyncClient):
    # the library's own task group wraps it
    with pytest.RaisesGroup(fishaudio.WebSocketError, allow_unwrapped=True, flatten_subgroups=True):
        async for _ in client.tts.stream_websocket(written("Hello."), reference_id="nobody"):
            pass
    async with connect(live) as connection:
        await connection.start(reference_id="nobody")
        event = await connection.receive()
    assert event["reason"] == "error"
    assert "alto" in event["message"]


async def test_an_engine_that_fails_ends_with_an_error(
    live: httpx.AsyncClient, engine: FakeEngineClient
):
    engine.fail_at_frame = 20
    async with connect(live) as connection:
        await connection.start(text=SENTENCES[0])
        await connection.send("stop")
        audio, finish = await connection.rest()
        assert audio
        assert finish["reason"] == "error"
        with pytest.raises(WebSocketDisconnect) as caught:
            await connection.receive()
    assert caught.value.code == 1011


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"event": "text", "text": "Hi."}, "start"),
        ({"event": "start"}, "request"),
        ({"event": "start", "request": {"text": "", "prosody": {"speed": 9}}}, "speed"),
        ([1, 2, 3], "map"),
        ({"event": "start", "request": {"text": "x" * 20_000}}, "MAX_TEXT_CHARS"),
    ],
)
async def test_what_cannot_be_understood_ends_with_an_error(
    live: httpx.AsyncClient, message: Any, hint: str
):
    async with connect(live) as connection:
        await connection.socket.send_bytes(ormsgpack.packb(message))
        event = await connection.receive()
        assert (event["event"], event["reason"]) == ("finish", "error")
        assert hint in event["message"]
        with pytest.raises(WebSocketDisconnect) as caught:
            await connection.receive()
    assert caught.value.code == 1008


async def test_bytes_that_are_not_msgpack_and_text_frames_end_with_an_error(
    live: httpx.AsyncClient,
):
    async with connect(live) as connection:
        await connection.socket.send_bytes(b"\xc1")
        assert "msgpack" in (await connection.receive())["message"]
    async with connect(live) as connection:
        await connection.socket.send_text("{}")
        assert "binary" in (await connection.receive())["message"]


async def test_a_second_start_ends_with_an_error(live: httpx.AsyncClient):
    async with connect(live) as connection:
        await connection.start()
        await connection.start()
        assert "once" in (await connection.rest())[1]["message"]


async def test_many_connections_at_a_time_all_get_their_own_speech(client: AsyncFishAudio):
    texts = [f"Connection number {number} speaks." * (1 + number % 3) for number in range(6)]

    async def ask(text: str) -> bytes:
        chunks = client.tts.stream_websocket(written(text), reference_id="alto", format="pcm")
        return b"".join([chunk async for chunk in chunks])

    contents = await asyncio.gather(*map(ask, texts))
    for text, content in zip(texts, contents, strict=True):
        found_s = duration_s(content, "pcm", PCM_RATE_HZ)
        assert found_s == pytest.approx(spoken_s(text), abs=0.01)
