from __future__ import annotations

import inspect
from http import HTTPStatus

from fastapi import FastAPI
from starlette.testclient import TestClient

from backend.api.errors import ERROR_TABLE, PARAM_OF, add_error_handlers
from backend.api.middleware import RequestContextMiddleware
from backend.api.schemas import TtsRequest
from backend.core import errors

CLASSES = {cls for _, cls in inspect.getmembers(errors, inspect.isclass)}


def app_raising(error: Exception) -> TestClient:
    app = FastAPI()
    add_error_handlers(app)
    app.add_middleware(RequestContextMiddleware)

    @app.get("/")
    async def fail() -> None:
        raise error

    return TestClient(app)


def test_every_error_class_has_a_status():
    assert set(ERROR_TABLE) == CLASSES


def test_statuses_are_errors_and_types_are_distinct():
    assert all(400 <= HTTPStatus(rule.status) < 600 for rule in ERROR_TABLE.values())
    assert len({rule.type for rule in ERROR_TABLE.values()}) == len(ERROR_TABLE)


def test_subclasses_blame_the_same_side():
    for cls, rule in ERROR_TABLE.items():
        if issubclass(cls, errors.InvalidInputError):
            assert rule.status // 100 == 4


def test_every_error_class_is_answered_with_its_row():
    for cls, rule in ERROR_TABLE.items():
        answer = app_raising(cls("what and why")).get("/", headers={"X-Request-Id": "abc"})
        assert answer.status_code == rule.status
        assert answer.json() == {
            "error": {
                "type": rule.type,
                "message": "what and why",
                "param": PARAM_OF.get(cls),
                "request_id": "abc",
            }
        }


def test_params_are_fields_of_the_request():
    assert set(PARAM_OF.values()) <= {*TtsRequest.model_fields, "speaker_file"}


def test_full_queue_says_when_to_come_back_in_whole_seconds():
    answer = app_raising(errors.QueueFullError("full", retry_after_s=2.2)).get("/")
    assert answer.headers["Retry-After"] == "3"


def test_unavailable_engine_says_when_to_come_back():
    answer = app_raising(errors.EngineUnavailableError("loading")).get("/")
    assert int(answer.headers["Retry-After"]) >= 1


def test_unexpected_error_tells_nothing_of_the_inside():
    answer = app_raising(RuntimeError("secret path /etc/x")).get(
        "/", headers={"X-Request-Id": "abc"}
    )
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal_error"
    assert answer.json()["error"]["request_id"] == "abc"
    assert answer.headers["X-Request-Id"] == "abc"
    assert "secret" not in answer.text
