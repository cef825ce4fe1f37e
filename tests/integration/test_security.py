"""Keys, origins and limits, through the whole app."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from backend.api.security import OPEN_PATHS, is_loopback, warn_if_open_to_all
from backend.app import create_app
from backend.core.settings import Settings
from backend.telemetry.logs import setup_logging
from tests.conftest import AppClient, MakeSettings, serve, until_open
from tests.fakes import FakeEngineClient

KEY = "correct-horse-battery"
OTHER = "another-good-key"
HELLO = {"text": "Hello."}
BEARER = {"Authorization": f"Bearer {KEY}"}


def paths_of(client: TestClient) -> list[tuple[str, str]]:
    """Every operation of the OpenAPI document, with something in the place of parameters."""
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, item in paths.items()
        for method in item
    ]


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"Authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"X-API-Key": OTHER},
        {"Authorization": "Bearer not-needed", "x-api-key": KEY},
        {"Authorization": "Basic dTpw", "x-api-key": KEY},
    ],
)
def test_a_key_opens_the_service(app_client: AppClient, headers: dict[str, str]):
    hashed = "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest()
    with app_client(api_keys=f"{KEY},{hashed}") as client:
        assert client.post("/tts", json=HELLO, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer "},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"x-api-key": ""},
        {"x-api-key": KEY.upper()},
        {"Authorization": "Bearer sha256:" + hashlib.sha256(KEY.encode()).hexdigest()},
        {"Cookie": f"api_key={KEY}"},
    ],
)
def test_anything_else_does_not(
    app_client: AppClient, engine: FakeEngineClient, headers: dict[str, str]
):
    with app_client(api_keys=KEY) as client:
        answer = client.post("/tts", json=HELLO, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert error["type"] == "invalid_api_key"
        assert error["request_id"] == answer.headers["X-Request-Id"]
        assert engine.requests == []


def test_every_operation_but_the_open_ones_asks_for_the_key(app_client: AppClient):
    with app_client(api_keys=KEY) as client:
        operations = paths_of(client)
        assert len(operations) > 10
        for method, path in operations:
            status = client.request(method, path).status_code
            if path in OPEN_PATHS:
                assert status != 401, (method, path)
            else:
                assert status == 401, (method, path)


def test_paths_that_do_not_exist_ask_for_the_key_too(app_client: AppClient):
    with app_client(api_keys=KEY) as client:
        for path in ("/nowhere", "/health/", "/health/../tts", "/DOCS", "/docs2"):
            assert client.get(path).status_code == 401, path


def test_documentation_and_health_stay_open(app_client: AppClient):
    with app_client(api_keys=KEY) as client:
        for path in ("/", "/health", "/health/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        assert client.get("/docs/assets/swagger-ui.css").status_code == 200


def test_refusals_come_in_the_envelope_of_each_dialect(app_client: AppClient):
    with app_client(api_keys=KEY) as client:
        openai = client.post("/v1/audio/speech", json={})
        fish = client.post("/v1/tts", json={})
    assert openai.status_code == fish.status_code == 401
    assert set(openai.json()["error"]) == {"message", "type", "param", "code"}
    assert set(fish.json()) == {"status", "message"}


def test_pages_of_allowed_origins_can_read_the_refusal(app_client: AppClient):
    origin = {"Origin": "http://localhost:7860"}
    with app_client(api_keys=KEY) as client:
        answer = client.post("/tts", json=HELLO, headers=origin)
    assert answer.status_code == 401
    assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]


def test_a_large_body_is_not_read_without_a_key(app_client: AppClient):
    with app_client(api_keys=KEY) as client:
        assert client.post("/tts", content=b"x" * (3 << 20)).status_code == 401


def test_no_key_is_asked_for_when_none_is_set(client: TestClient):
    assert client.post("/tts", json=HELLO).status_code == 200
    assert client.post("/tts", json=HELLO, headers=BEARER).status_code == 200


async def test_websocket_upgrade_without_a_key_is_answered_401(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    app = create_app(make_settings(api_keys=KEY), engine)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with serve(app) as address, httpx.AsyncClient(base_url=address, trust_env=False) as http:
        await until_open(app)
        answer = await http.get("/v1/tts/live", headers=upgrade)
    assert answer.status_code == 401
    assert answer.json()["status"] == 401
    assert answer.headers["X-Request-Id"]


def test_websocket_from_a_foreign_page_is_refused_where_no_key_guards(client: TestClient):
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/v1/tts/live", headers={"Origin": "http://evil.example"}),
    ):
        pass


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "x"])
def test_form_from_a_foreign_page_is_refused_where_no_key_guards(client: TestClient, origin: str):
    answer = client.post("/tts", data=HELLO, headers={"Origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "origin_not_allowed"
    assert "CORS_ORIGINS" in answer.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["http://localhost:7860", "http://testserver"])
def test_own_and_listed_pages_may_use_the_service(client: TestClient, origin: str):
    assert client.post("/tts", data=HELLO, headers={"Origin": origin}).status_code == 200


def test_a_star_lets_all_pages_in(app_client: AppClient):
    with app_client(cors_origins="*") as client:
        answer = client.post("/tts", data=HELLO, headers={"Origin": "http://any.example"})
        assert answer.status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8000", "[", "a@b.example"])
def test_foreign_name_for_this_machine_is_refused(client: TestClient, host: str):
    answer = client.get("/voices", headers={"Host": host})
    assert answer.status_code == 403
    assert "answers to localhost" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "backend:8000", "tts.localhost"]
)
def test_own_names_are_answered(client: TestClient, host: str):
    assert client.get("/voices", headers={"Host": host}).status_code == 200


def test_a_listed_origin_is_a_known_name(app_client: AppClient):
    with app_client(cors_origins="https://tts.example.org") as client:
        assert client.get("/voices", headers={"Host": "tts.example.org"}).status_code == 200


def test_a_server_for_the_network_answers_to_any_name(app_client: AppClient):
    with app_client(host="0.0.0.0") as client:
        assert client.get("/voices", headers={"Host": "tts.example.org"}).status_code == 200


def test_requests_beyond_the_rate_get_429_and_a_time_to_wait(app_client: AppClient):
    with app_client(rate_limit_per_minute=2) as client:
        statuses = [client.post("/tts", json=HELLO).status_code for _ in range(3)]
        refused = client.post("/tts", json=HELLO)
        assert statuses == [200, 200, 429]
        assert refused.json()["error"]["type"] == "rate_limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert client.get("/metrics").status_code == 200  # reading is not counted


def test_each_key_has_its_own_rate(app_client: AppClient):
    with app_client(api_keys=f"{KEY},{OTHER}", rate_limit_per_minute=1) as client:
        one, two = {"x-api-key": KEY}, {"x-api-key": OTHER}
        assert client.post("/tts", json=HELLO, headers=one).status_code == 200
        assert client.post("/tts", json=HELLO, headers=two).status_code == 200
        assert client.post("/tts", json=HELLO, headers=one).status_code == 429


def test_guessing_keys_is_slowed_down_and_does_not_lock_the_owner_out(app_client: AppClient):
    with app_client(api_keys=KEY, rate_limit_per_minute=3) as client:
        guesses = [
            client.get("/voices", headers={"x-api-key": f"guess-{number}"}).status_code
            for number in range(5)
        ]
        assert guesses == [401, 401, 401, 429, 429]
        assert client.post("/tts", json=HELLO, headers=BEARER).status_code == 200


async def test_requests_open_at_a_time_are_bounded(
    make_settings: MakeSettings, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(0)
    app = create_app(make_settings(max_concurrent_per_key=1), engine)
    async with (
        serve(app) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as http,
    ):
        await until_open(app)
        first = asyncio.create_task(http.post("/tts", json=HELLO))
        await engine.has_request.wait()
        refused = await http.post("/tts", json=HELLO)
        assert refused.status_code == 429
        assert "MAX_CONCURRENT_PER_KEY" in refused.json()["error"]["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        for _ in range(1000):
            engine.permits.release()
        assert (await first).status_code == 200
        assert (await http.post("/tts", json=HELLO)).status_code == 200


@pytest.mark.parametrize(
    ("host", "is_only_here"),
    [
        *(("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True)),
        *(("0.0.0.0", False), ("192.0.2.1", False), ("::", False), ("tts.example", False)),
    ],
)
def test_open_server_for_the_network_is_warned_about(
    caplog: pytest.LogCaptureFixture, host: str, is_only_here: bool
):
    assert is_loopback(host) is is_only_here
    warn_if_open_to_all(Settings(host=host))
    assert ("NO API KEY" in caplog.text) is not is_only_here
    caplog.clear()
    warn_if_open_to_all(Settings(host=host, api_keys=(KEY,)))
    assert caplog.text == ""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_logs_have_the_request_id_and_never_a_key(app_client: AppClient, log_format: Any):
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        setup_logging("debug", log_format, stream=stream)
        with app_client(api_keys=KEY) as client:
            named = {**BEARER, "X-Request-Id": "my-request-7"}
            client.post("/tts?api_key=secret-in-query", json=HELLO, headers=named)
            client.post("/tts", json=HELLO, headers={"x-api-key": "wrong-secret-key"})
            client.post("/tts", json={"text": ""}, headers=BEARER)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = stream.getvalue()
    assert "my-request-7" in written
    assert "POST /tts 200" in written
    assert "POST /tts 401" in written
    for secret in (KEY, "wrong-secret-key", "secret-in-query"):
        assert secret not in written
