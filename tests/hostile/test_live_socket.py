"""Hostile clients of the live WebSocket, on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import ormsgpack
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from backend.app import create_app
from tests.conftest import serve, until_open
from tests.fakes import FakeEngineClient
from tests.hostile import tricks
from tests.hostile.cases import BROKEN_MSGPACK
from tests.hostile.conftest import hostile_settings
from tests.hostile.envelopes import INNARDS, MAX_MESSAGE_CHARS

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_FRAME_BYTES = 1 << 20
INTERNAL_ERROR = 1011
START = {"event": "start", "request": {"text": "", "format": "pcm"}}
STOP = {"event": "stop"}


@dataclass(frozen=True, slots=True)
class Live:
    """A server on a port."""

    address: str
    engine: FakeEngineClient

    def connect(self, **options: Any) -> connect:
        url = self.address.replace("http", "ws", 1) + "/v1/tts/live"
        return connect(url, proxy=None, **options)

    async def assert_well(self) -> None:
        """Another client is served over both doors, and the engine is free."""
        async with httpx.AsyncClient(base_url=self.address, trust_env=False, timeout=10) as http:
            answer = await http.post("/tts", json={"text": "The server is well."})
        assert answer.status_code == 200
        async with self.connect() as socket:
            await socket.send(
                ormsgpack.packb({**START, "request": {"text": "Hi.", "format": "pcm"}})
            )
            await socket.send(ormsgpack.packb(STOP))
            events = await events_of(socket)
        assert [event["event"] for event in events][-1] == "finish"
        assert events[-1]["reason"] == "stop"
        assert any(event["event"] == "audio" for event in events)
        await asyncio.wait_for(self.engine.idle.wait(), 5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    engine = FakeEngineClient()
    app = create_app(hostile_settings(tmp_path_factory.mktemp("live")), engine)
    async with serve(app, ws_max_size=MAX_FRAME_BYTES) as address:
        await until_open(app)
        yield Live(address, engine)


async def events_of(socket: ClientConnection) -> list[dict[str, Any]]:
    """Read until the server closes."""
    events: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(5):
            while True:
                frame = await socket.recv()
                assert isinstance(frame, bytes)
                events.append(ormsgpack.unpackb(frame))
    except ConnectionClosed:
        return events


def start(**request: Any) -> bytes:
    return ormsgpack.packb({"event": "start", "request": {"text": "", **request}})


def text(value: object) -> bytes:
    return ormsgpack.packb({"event": "text", "text": value})


GOOD_START = ormsgpack.packb(START)
LONG_WAV = tricks.eight_hour_wav()
HI = [text("Hi. "), ormsgpack.packb(STOP)]
REFUSED: dict[str, list[bytes | str]] = {
    "text frame": ["hello"],
    "JSON in a text frame": ['{"event": "start", "request": {"text": ""}}'],
    "empty frame": [b""],
    "event without a kind": [ormsgpack.packb({})],
    "number as kind": [ormsgpack.packb({"event": 5})],
    "text before start": [text("Hi.")],
    "stop before start": [ormsgpack.packb(STOP)],
    "start without a request": [ormsgpack.packb({"event": "start"})],
    "request is a list": [ormsgpack.packb({"event": "start", "request": []})],
    "text is a number": [start(text=5)],
    "unknown format": [start(format="midi")],
    "unknown voice": [start(reference_id="../../etc/passwd")],
    "temperature of -1": [start(temperature=-1)],
    "NaN": [b"\x82\xa5event\xa5start\xa7request\x82\xa4text\xa0\xa5top_p\xcb\x7f\xf8" + bytes(6)],
    "reference of noise": [start(references=[{"audio": tricks.NOISE, "text": "a"}]), *HI],
    "reference of 8 hours": [start(references=[{"audio": LONG_WAV, "text": "a"}]), *HI],
    "start twice": [GOOD_START, GOOD_START],
    "number as text": [GOOD_START, text(5)],
    "nil as text": [GOOD_START, text(None)],
    "text without a text": [GOOD_START, ormsgpack.packb({"event": "text"})],
    "endless text": [GOOD_START, text("word " * 3000)],
    "endless text in pieces": [GOOD_START, *[text("no end ")] * 2000],
    **{f"msgpack, {name}": [content] for name, content in BROKEN_MSGPACK.items()
       if name not in ("trailing bytes", "too large", "JSON")},
    **{f"later msgpack, {name}": [GOOD_START, content] for name, content in BROKEN_MSGPACK.items()
       if name in ("reserved byte", "cut map", "deep maps", "nil", "string of 4 GB")},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_hostile_event_ends_the_connection_with_a_reason(server: Live, name: str):
    async with server.connect() as socket:
        try:
            for frame in REFUSED[name]:
                await socket.send(frame)
        except ConnectionClosed:
            pass  # it had enough before it had all
        events = await events_of(socket)
        assert socket.close_code not in (None, 1000, 1006, INTERNAL_ERROR), socket.close_reason
    finish = events[-1]
    assert (finish["event"], finish["reason"]) == ("finish", "error")
    assert 5 < len(finish["message"]) <= MAX_MESSAGE_CHARS
    assert not INNARDS.search(finish["message"]), finish["message"]
    await server.assert_well()


async def test_frame_beyond_the_limit_closes_the_connection(server: Live):
    async with server.connect() as socket:
        await socket.send(bytes(MAX_FRAME_BYTES + 1))
        await events_of(socket)
        assert socket.close_code == 1009
    await server.assert_well()


async def test_deflate_bomb_in_a_frame_is_bounded_too(server: Live):
    async with server.connect(compression="deflate") as socket:
        await socket.send(bytes(50 << 20))  # 50 kB on the wire
        await events_of(socket)
        assert socket.close_code == 1009
    await server.assert_well()


@pytest.mark.parametrize("event", ["pause", "", "x" * 10_000, "AUDIO"])
async def test_unknown_event_is_passed_over(server: Live, event: str):
    async with server.connect() as socket:
        await socket.send(GOOD_START)
        await socket.send(ormsgpack.packb({"event": event}))
        await socket.send(text("Hi."))
        await socket.send(ormsgpack.packb(STOP))
        assert (await events_of(socket))[-1]["reason"] == "stop"


async def test_flood_of_flushes_and_empty_texts_says_nothing_and_ends_well(server: Live):
    before = len(server.engine.requests)
    async with server.connect() as socket:
        await socket.send(GOOD_START)
        for _ in range(500):
            await socket.send(ormsgpack.packb({"event": "flush"}))
            await socket.send(text(""))
        await socket.send(ormsgpack.packb(STOP))
        assert (await events_of(socket))[-1]["reason"] == "stop"
    assert len(server.engine.requests) == before


@pytest.mark.parametrize("num_sent", [0, 1, 2])
async def test_connection_that_breaks_leaves_the_engine_free(server: Live, num_sent: int):
    frames = [GOOD_START, text("A sentence that is spoken. And another one. ")]
    for _ in range(5):
        socket = await server.connect()
        for frame in frames[:num_sent]:
            await socket.send(frame)
        socket.transport.abort()
    await server.assert_well()


async def test_pings_are_answered(server: Live):
    async with server.connect() as socket:
        await socket.send(GOOD_START)
        for _ in range(50):
            await asyncio.wait_for(await socket.ping(), 5)
    await server.assert_well()


async def test_foreign_page_cannot_open_the_socket(server: Live):
    with pytest.raises(InvalidStatus) as refusal:
        async with server.connect(origin="http://evil.example"):
            pass
    assert refusal.value.response.status_code == 403
    assert b"CORS_ORIGINS" in (refusal.value.response.body or b"")
    await server.assert_well()
