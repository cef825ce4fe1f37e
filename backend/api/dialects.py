"""The envelopes that errors are put into, one for each dialect; the path tells which.

What is wrong and its status come from the one table in ``backend/api/errors.py``. A dialect only
decides how it is written down, so that each client's own library reads it as its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from backend.api.schemas import ErrorDetail, ErrorResponse


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that went wrong, before it is written down.

    Attributes:
        status: HTTP status.
        type: Kind of error, for programs.
        message: What is wrong and what to do about it, for people.
        param: The field that is wrong, where it is one.
        request_id: Names the request in the log.
    """

    status: int
    type: str
    message: str
    param: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of clients wants errors.

    Attributes:
        name: For people.
        prefixes: Paths it owns: each of these, and whatever lies below.
        render: Gives the body of an answer.
        validation_status: Status of a body that does not fit its schema.
    """

    name: str
    prefixes: tuple[str, ...]
    render: Callable[[Problem], dict[str, Any]]
    validation_status: int

    def owns(self, path: str) -> bool:
        """Tell whether a path is this dialect's."""
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self.prefixes)


def _render_native(problem: Problem) -> dict[str, Any]:
    detail = ErrorDetail(
        type=problem.type,
        message=problem.message,
        param=problem.param,
        request_id=problem.request_id,
    )
    return ErrorResponse(error=detail).model_dump()


_OPENAI_FIELDS = {"text": "input", "format": "response_format", "speaker_file": "audio_sample"}
"""What OpenAI calls the fields that errors of the service are about."""


def _render_openai(problem: Problem) -> dict[str, Any]:
    """OpenAI names the side that erred in ``type`` and the kind of error in ``code``."""
    side = "invalid_request_error"
    if problem.status == HTTPStatus.TOO_MANY_REQUESTS:
        side = "rate_limit_error"
    elif problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        side = "server_error"
    return {
        "error": {
            "message": problem.message,
            "type": side,
            "param": _OPENAI_FIELDS.get(problem.param or "", problem.param),
            "code": problem.type,
        }
    }


def _render_fish(problem: Problem) -> dict[str, Any]:
    """The older of Fish's two libraries accepts these two keys and no third one."""
    return {"status": problem.status, "message": problem.message}


FISH = Dialect(
    name="Fish Audio",
    prefixes=(
        "/v1/tts",
        "/v1/references",
        "/v1/vqgan",
        "/v1/health",
        "/v1/asr",
        "/model",
        "/wallet",
    ),
    render=_render_fish,
    validation_status=HTTPStatus.UNPROCESSABLE_ENTITY,
)

OPENAI = Dialect(
    name="OpenAI",
    prefixes=("/v1",),  # what is not Fish's: a client that asks for chat gets a 404 it can read
    render=_render_openai,
    validation_status=HTTPStatus.BAD_REQUEST,
)

NATIVE = Dialect(
    name="native",
    prefixes=("",),
    render=_render_native,
    validation_status=HTTPStatus.UNPROCESSABLE_ENTITY,
)


def dialect_of(path: str) -> Dialect:
    """Give the dialect that a path belongs to."""
    return next((dialect for dialect in (FISH, OPENAI) if dialect.owns(path)), NATIVE)
