from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from backend.api.errors import add_error_handlers
from backend.api.middleware import BodyLimitMiddleware, RequestContextMiddleware
from backend.telemetry.logs import current_request_id

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
