from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from backend.api.errors import add_error_handlers
from backend.api.middleware import BodyLimitMiddleware, RequestContextMiddleware
from backend.core.errors import GenerationError
from backend.telemetry.logs import current_request_id
from tests.conftest import serve

LIMIT = 1 << 20


@pytest.fixture
def echo() -> TestClient:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_bytes=LIMIT)
    app.add_middleware(RequestContextMiddleware)

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/id")
    async def logged_id() -> str | None:
        return current_request_id()

    return TestClient(app)


@pytest.mark.parametrize("offered", ["abc", "A-1_b.c", "x" * 64])
def test_sane_id_of_the_client_is_kept(echo: TestClient, offered: str):
    answer = echo.get("/id", headers={"X-Request-Id": offered})
    assert answer.headers["X-Request-Id"] == offered
    assert answer.json() == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a/b", '"', "a;b"])
def test_any_other_id_is_replaced(echo: TestClient, offered: str):
    answer = echo.get("/id", headers={"X-Request-Id": offered})
    assert answer.headers["X-Request-Id"] not in ("", offered)


def test_every_request_gets_another_id(echo: TestClient):
    assert len({echo.get("/id").json() for _ in range(5)}) == 5


def test_body_up_to_the_limit_passes(echo: TestClient):
    assert echo.post("/size", content=b"x" * LIMIT).json() == LIMIT


def test_announced_body_beyond_the_limit_is_refused(echo: TestClient):
    answer = echo.post("/size", content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["type"] == "payload_too_large"
    assert "larger than 1 MiB" in error["message"]
    assert "MAX_UPLOAD_MB" in error["message"]


def test_unannounced_body_is_counted(echo: TestClient):
    def pieces() -> Iterator[bytes]:
        for _ in range(9):
            yield b"x" * (LIMIT // 8)

    answer = echo.post("/size", content=pieces())
    assert answer.status_code == 413


def test_unannounced_body_within_the_limit_passes(echo: TestClient):
    answer = echo.post("/size", content=iter([b"x" * 10, b"y" * 10]))
    assert answer.json() == 20


def app_whose_answer_breaks(error: Exception) -> FastAPI:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(RequestContextMiddleware)

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            raise error

        return StreamingResponse(pieces(), media_type="text/plain")

    return app


async def test_expected_error_after_the_start_cuts_the_answer_and_is_one_line(
    caplog: pytest.LogCaptureFixture,
):
    app = app_whose_answer_breaks(GenerationError("the engine failed; try again"))
    async with serve(app) as address, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"{address}/broken", headers={"X-Request-Id": "abc"})
    lines = [
        (record.name, record.getMessage(), record.exc_info)
        for record in caplog.records
        if record.levelname == "ERROR" and "without completing" not in record.getMessage()
    ]
    expected = "cut the answer to GET /broken: GenerationError: the engine failed; try again"
    assert lines == [("backend.api.middleware", expected, None)]


async def test_unexpected_error_after_the_start_leaves_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
):
    app = app_whose_answer_breaks(RuntimeError("a mistake"))
    async with serve(app) as address, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"{address}/broken")
    assert caplog.text.count("Traceback") == caplog.text.count("RuntimeError: a mistake") == 1


def socket_app() -> TestClient:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(RequestContextMiddleware)

    @app.websocket("/id")
    async def logged_id(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(current_request_id() or "")
        await websocket.close()

    @app.websocket("/broken")
    async def broken(websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("a mistake")

    @app.websocket("/broken-early")
    async def broken_early(websocket: WebSocket) -> None:
        raise RuntimeError("a mistake")

    return TestClient(app)


def test_websocket_has_a_request_id_too():
    with socket_app().websocket_connect("/id", headers={"X-Request-Id": "abc"}) as socket:
        assert socket.receive_text() == "abc"


def test_error_in_a_websocket_is_told_as_an_internal_error(caplog: pytest.LogCaptureFixture):
    with (
        socket_app().websocket_connect("/broken") as socket,
        pytest.raises(WebSocketDisconnect) as ended,
    ):
        socket.receive_text()
    assert ended.value.code == 1011
    assert caplog.text.count("RuntimeError: a mistake") == 1


def test_error_before_a_websocket_opens_is_a_500_without_details():
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        socket_app().websocket_connect("/broken-early"),
    ):
        pass
    assert denied.value.status_code == 500
    assert denied.value.json()["error"]["type"] == "internal_error"
    assert "mistake" not in denied.value.json()["error"]["message"].replace("made a mistake", "")
