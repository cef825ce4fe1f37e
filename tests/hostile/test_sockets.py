"""Bytes that no HTTP library would send, on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request

from backend.api.connections import ImpatientHttpProtocol
from backend.api.errors import add_error_handlers
from backend.api.middleware import BodyLimitMiddleware, RequestContextMiddleware
from backend.app import create_app
from tests.conftest import serve, until_open
from tests.fakes import FakeEngineClient
from tests.hostile.conftest import hostile_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = {"text": "The server is well."}
POST = b"POST /tts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"text": "Hi."}'
FULL = POST + b"Content-Length: 15\r\n\r\n" + BODY
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@dataclass(frozen=True, slots=True)
class Live:
    """A server on a port, and its address."""

    address: str
    engine: FakeEngineClient

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.address)
        return await asyncio.open_connection(parts.hostname, parts.port)

    async def exchange(self, sent: bytes, *, half_close: bool = False) -> bytes:
        """Send bytes and give what comes back until the server closes, or one answer's start."""
        reader, writer = await self.connect()
        try:
            writer.write(sent)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(5):
                return await reader.read(4096)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def assert_well(self) -> None:
        """The server still speaks, and nothing of the attack is left in the engine."""
        async with httpx.AsyncClient(base_url=self.address, trust_env=False, timeout=10) as http:
            answer = await http.post("/tts", json=HELLO)
        assert answer.status_code == 200
        assert answer.content[:4] == b"RIFF"
        await asyncio.wait_for(self.engine.idle.wait(), 5)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drop: bytes) -> bytes:
    """Send a drop every 20 ms until the server closes; give what it said."""
    answer = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(5):
        while not answer.done():
            if not writer.is_closing():
                writer.write(drop)
            await asyncio.wait({answer}, timeout=0.02)
    writer.close()
    return b"" if isinstance(answer.exception(), ConnectionError) else answer.result()


class _HurriedProtocol(ImpatientHttpProtocol):
    header_timeout_s = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    engine = FakeEngineClient()
    app = create_app(hostile_settings(tmp_path_factory.mktemp("sockets")), engine)
    async with serve(app, http=_HurriedProtocol) as address:
        await until_open(app)
        yield Live(address, engine)


MALFORMED: dict[str, bytes] = {
    "noise": bytes(range(256)) * 8,
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "no method": b" /tts HTTP/1.1\r\nHost: a\r\n\r\n",
    "long method": b"A" * 10_000 + b" /tts HTTP/1.1\r\n\r\n",
    "space in the path": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a header": GET + b"X-A: b\x00c\r\n\r\n",
    "no colon": GET + b"this is no header\r\n\r\n",
    "empty name": GET + b": value\r\n\r\n",
    "space before the colon": GET + b"X-A : b\r\n\r\n",
    "folded header": GET + b" folded\r\n\r\n",
    "bare CR": GET + b"X-A: b\rX-B: c\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "length of words": POST + b"Content-Length: many\r\n\r\n" + BODY,
    "length in hex": POST + b"Content-Length: 0x0f\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 15\r\nContent-Length: 3\r\n\r\n" + BODY,
    "length and chunks": (
        POST
        + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n"
        + BODY
        + b"\r\n0\r\n\r\n"
    ),
    "unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "endless chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
    "negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_http_is_refused_or_cut(server: Live, name: str):
    before = len(server.engine.requests)
    answer = await server.exchange(MALFORMED[name])
    assert answer == b"" or answer.split(b" ", 2)[1][:1] == b"4", answer[:200]
    assert len(server.engine.requests) == before
    await server.assert_well()


ANY_OF_THREE = {b"200", b"400", b"404"}
ODD: dict[str, tuple[bytes, set[bytes]]] = {
    "malformed host": (b"GET /voices HTTP/1.1\r\nHost: [\r\n\r\n", {b"400", b"403"}),
    "host of another path": (b"GET /v1/x HTTP/1.1\r\nHost: a/../tts\r\n\r\n", {b"403", b"404"}),
    "absolute target": (b"GET http://evil.test/health HTTP/1.1\r\nHost: a\r\n\r\n", ANY_OF_THREE),
    "path above the root": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {b"404"}),
    "asset above": (b"GET /docs/assets/../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {b"404"}),
    "encoded slash": (b"GET /docs/assets/..%2f..%2fcore.py HTTP/1.1\r\nHost: a\r\n\r\n", {b"404"}),
    "broken escape": (b"GET /%zz%ff HTTP/1.1\r\nHost: a\r\n\r\n", {b"400", b"404"}),
    "invalid UTF-8": (b"GET /%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n", {b"404"}),
    "long path": (b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {b"404", b"414"}),
    "long query": (b"GET /voices?" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {b"200"}),
    "huge length": (POST + b"Content-Length: 18446744073709551615\r\n\r\n", {b"413", b"400"}),
    "1 TB": (POST + b"Content-Length: 1099511627776\r\n\r\n", {b"413"}),
    "script as id": (GET + b"X-Request-Id: <script>\r\n\r\n", {b"200"}),
    "bytes as id": (GET + b"X-Request-Id: \xff\xfe\r\n\r\n", {b"200"}),
    "bytes as key": (GET + b"Authorization: Bearer \xff\xfe\r\n\r\n", {b"200"}),
    "websocket to a page": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        {b"403", b"404"},
    ),
    "HTTP/0.9": (b"GET /health\r\n\r\n", {b"200", b"400"}),
    "expect": (POST + b"Expect: 100-continue\r\nContent-Length: 3000000\r\n\r\n", {b"413", b"100"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_http_is_answered_without_a_fault(server: Live, name: str):
    sent, statuses = ODD[name]
    answer = await server.exchange(sent)
    assert answer.split(b" ", 2)[1] in statuses, answer[:300]
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"script" not in head
    assert b"\xff" not in head
    await server.assert_well()


@pytest.mark.parametrize("name", ["after the request", "inside the body", "inside the headers"])
async def test_half_closed_socket_leaves_the_server_well(server: Live, name: str):
    sent = {
        "after the request": FULL,
        "inside the body": FULL[:-5],
        "inside the headers": FULL[:40],
    }[name]
    answer = await server.exchange(sent, half_close=True)
    assert answer == b"" or answer.split(b" ", 2)[1] in {b"200", b"400"}
    await server.assert_well()


@pytest.mark.parametrize("cut_at", [1, 40, len(FULL) - 5, len(FULL)])
async def test_connection_that_breaks_anywhere_leaves_the_server_well(server: Live, cut_at: int):
    for _ in range(20):
        _, writer = await server.connect()
        writer.write(FULL[:cut_at])
        await writer.drain()
        writer.transport.abort()
    await server.assert_well()


async def test_headers_without_an_end_are_refused(server: Live):
    answer = await server.exchange(GET + b"X-A: " + b"a" * 200_000)
    assert b" 431 " in answer
    answer = await server.exchange(GET + b"X-A: b\r\n" * 20_000)
    assert b" 431 " in answer
    await server.assert_well()


@pytest.mark.parametrize("sent", [b"", b"GET /heal", GET, GET + b"X-A: b\r\n"])
async def test_connection_that_never_gets_to_a_request_is_closed(server: Live, sent: bytes):
    assert await server.exchange(sent) == b""
    await server.assert_well()


async def test_header_lines_now_and_then_do_not_hold_a_connection(server: Live):
    reader, writer = await server.connect()
    writer.write(GET)
    assert await drip(reader, writer, b"X-A: b\r\n") == b""
    await server.assert_well()


async def test_second_request_of_a_connection_has_to_come_too(server: Live):
    reader, writer = await server.connect()
    writer.write(GET + b"\r\n")
    async with asyncio.timeout(4):  # uvicorn's own limit, for silence, is 5 s
        assert b"HTTP/1.1 200" in await reader.read(4096)
        assert b"200" not in await drip(reader, writer, b"X")
    writer.close()


async def test_a_hundred_silent_connections_do_not_keep_others_out(server: Live):
    silent = await asyncio.gather(*(server.connect() for _ in range(100)))
    await server.assert_well()
    for _, writer in silent:
        writer.close()


async def test_pipelined_requests_are_all_answered(server: Live):
    reader, writer = await server.connect()
    writer.write((GET + b"\r\n") * 20)
    received = b""
    async with asyncio.timeout(10):
        while received.count(b"HTTP/1.1 200") < 20:
            part = await reader.read(65536)
            assert part, received[-200:]
            received += part
    writer.close()
    await server.assert_well()


@asynccontextmanager
async def impatient_echo(stall_s: float, total_s: float) -> AsyncIterator[str]:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(
        BodyLimitMiddleware, max_bytes=1 << 20, stall_timeout_s=stall_s, total_timeout_s=total_s
    )
    app.add_middleware(RequestContextMiddleware)

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    async with serve(app) as address:
        yield address


async def test_body_that_stops_gets_408_and_the_connection_is_closed(engine: FakeEngineClient):
    async with impatient_echo(0.1, 10) as address:
        reader, writer = await Live(address, engine).connect()
        writer.write(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert b"stopped after 5 bytes" in answer
    assert b'"type":"request_timeout"' in answer


async def test_body_in_drops_gets_408_when_its_time_is_over(engine: FakeEngineClient):
    async with impatient_echo(5, 0.2) as address:
        reader, writer = await Live(address, engine).connect()
        writer.write(b"POST /size HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await drip(reader, writer, b"1\r\nx\r\n")
        writer.close()
    assert answer == b"" or b" 408 " in answer.partition(b"\r\n")[0]


async def test_body_that_comes_at_once_has_time_enough():
    async with impatient_echo(0.05, 0.05) as address, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{address}/size", content=b"x" * 1000)).json() == 1000
