from __future__ import annotations

import pytest

from backend.api.dialects import FISH, NATIVE, OPENAI, Problem, dialect_of


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/audio/speech", OPENAI),
        ("/v1/models", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/v1", OPENAI),
        ("/v1/tts", FISH),
        ("/v1/tts/live", FISH),
        ("/v1/references/add", FISH),
        ("/v1/health", FISH),
        ("/model", FISH),
        ("/model/abc", FISH),
        ("/wallet/self/package", FISH),
        ("/models", NATIVE),
        ("/tts", NATIVE),
        ("/v1x", NATIVE),
        ("/", NATIVE),
        ("/health", NATIVE),
    ],
)
def test_the_path_tells_the_dialect(path: str, dialect: object):
    assert dialect_of(path) is dialect


def test_every_dialect_says_what_is_wrong():
    problem = Problem(404, "voice_not_found", "no such voice", "voice", "abc")
    assert FISH.render(problem) == {"status": 404, "message": "no such voice"}
    assert OPENAI.render(problem) == {
        "error": {
            "message": "no such voice",
            "type": "invalid_request_error",
            "param": "voice",
            "code": "voice_not_found",
        }
    }
    assert NATIVE.render(problem)["error"]["request_id"] == "abc"


@pytest.mark.parametrize(
    ("status", "side"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_openais_type_names_the_side_that_erred(status: int, side: str):
    rendered = OPENAI.render(Problem(status, "any", "why", None, "abc"))
    assert rendered["error"]["type"] == side


def test_openais_params_are_openais_fields():
    rendered = OPENAI.render(Problem(400, "invalid_text", "why", "text", "abc"))
    assert rendered["error"]["param"] == "input"
