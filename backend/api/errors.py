"""One table from errors to answers, and the handlers that use it.

Every answer that is not a success has the same body::

    {"error": {"type": "voice_not_found", "message": "...", "param": null, "request_id": "..."}}

except on the paths of other dialects (``backend/api/dialects.py``), whose clients expect their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backend.api.dialects import Problem, dialect_of
from backend.core import errors

REQUEST_ID_HEADER = "X-Request-Id"
PREDICTED_TTFA_HEADER = "X-Predicted-TTFA-Ms"
INTERNAL_ERROR_TYPE = "internal_error"
VALIDATION_ERROR_TYPE = "invalid_request"
CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it; it is what logs say for a client that left."""

_STARTING_RETRY_AFTER_S = 3
_MAX_QUOTED_CHARS = 60
_MAX_QUOTED_PATH_CHARS = 120


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How one class of errors is answered.

    Attributes:
        status: HTTP status.
        type: ``error.type`` of the body; programs may rely on it.
        retry_after_s: Value of ``Retry-After``, where a new try can help.
    """

    status: int
    type: str
    retry_after_s: int | None = None


ERROR_TABLE: Mapping[type[errors.TTSError], ErrorRule] = {
    errors.TTSError: ErrorRule(500, INTERNAL_ERROR_TYPE),
    errors.InvalidInputError: ErrorRule(400, "invalid_input"),
    errors.InvalidTextError: ErrorRule(400, "invalid_text"),
    errors.InvalidAudioError: ErrorRule(400, "invalid_audio"),
    errors.AudioTooLongError: ErrorRule(400, "audio_too_long"),
    errors.UnsupportedFormatError: ErrorRule(400, "unsupported_format"),
    errors.PromptTooLongError: ErrorRule(400, "prompt_too_long"),
    errors.InvalidVoiceError: ErrorRule(400, "invalid_voice"),
    errors.InvalidBundleError: ErrorRule(400, "invalid_bundle"),
    errors.VoiceNotFoundError: ErrorRule(404, "voice_not_found"),
    errors.VoiceExistsError: ErrorRule(409, "voice_exists"),
    errors.VoiceReadOnlyError: ErrorRule(403, "voice_read_only"),
    errors.VoiceUnusableError: ErrorRule(409, "voice_unusable"),
    errors.VoiceLimitError: ErrorRule(409, "voice_limit"),
    errors.VoiceStorageError: ErrorRule(500, "voice_storage_failed"),
    errors.ModelNotFoundError: ErrorRule(404, "model_not_found"),
    errors.PayloadTooLargeError: ErrorRule(413, "payload_too_large"),
    errors.RequestTimeoutError: ErrorRule(408, "request_timeout"),
    errors.AuthenticationError: ErrorRule(401, "invalid_api_key"),
    errors.OriginNotAllowedError: ErrorRule(403, "origin_not_allowed"),
    errors.RateLimitError: ErrorRule(429, "rate_limited", retry_after_s=1),
    errors.QueueFullError: ErrorRule(429, "queue_full", retry_after_s=1),
    errors.OverloadedError: ErrorRule(429, "overloaded", retry_after_s=1),
    errors.DeadlineExceededError: ErrorRule(504, "deadline_exceeded"),
    errors.EngineUnavailableError: ErrorRule(503, "engine_unavailable", _STARTING_RETRY_AFTER_S),
    errors.ServiceClosedError: ErrorRule(503, "service_closed", _STARTING_RETRY_AFTER_S),
    errors.NotOfferedError: ErrorRule(501, "not_offered"),
    errors.GenerationError: ErrorRule(500, "generation_failed"),
    errors.EngineDiedError: ErrorRule(500, "engine_died"),
    errors.RequestNotFoundError: ErrorRule(404, "request_not_found"),
    errors.JobNotFoundError: ErrorRule(404, "job_not_found"),
    errors.JobStateError: ErrorRule(409, "job_state"),
    errors.JobLimitError: ErrorRule(409, "job_limit"),
    errors.JobStorageError: ErrorRule(500, "job_storage_failed"),
    # These stop the start; no request should meet them.
    errors.ConfigurationError: ErrorRule(500, "configuration_error"),
    errors.SettingsError: ErrorRule(500, "settings_error"),
    errors.CheckpointError: ErrorRule(500, "checkpoint_error"),
    errors.CheckpointMismatchError: ErrorRule(500, "checkpoint_mismatch"),
}

PARAM_OF: Mapping[type[errors.TTSError], str] = {
    errors.InvalidTextError: "text",
    errors.InvalidAudioError: "speaker_file",
    errors.AudioTooLongError: "speaker_file",
    errors.UnsupportedFormatError: "format",
    errors.VoiceNotFoundError: "voice",
}
"""The field that an error is about, where its class says so."""


def request_id_of(request: Request) -> str:
    """Give the id that the middleware chose for this request."""
    return str(request.state.request_id)


def error_response(
    status: int,
    error_type: str,
    message: str,
    request_id: str,
    *,
    path: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make the answer for something that went wrong, in the envelope that ``path`` asks for."""
    problem = Problem(status, error_type, message, param, request_id)
    body = dialect_of(path).render(problem)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def stream_error(error: errors.TTSError, path: str, request_id: str = "") -> dict[str, Any]:
    """Write an error that comes after the status, for streams that can carry one."""
    rule = ERROR_TABLE[type(error)]
    problem = Problem(rule.status, rule.type, str(error), PARAM_OF.get(type(error)), request_id)
    return dialect_of(path).render(problem)


def add_error_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every error of the project, of FastAPI and of Starlette alike."""
    app.add_exception_handler(errors.TTSError, _answer_project_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)


def _answer_project_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.TTSError)
    rule = ERROR_TABLE[type(error)]
    retry_after_s = rule.retry_after_s
    if isinstance(error, errors.QueueFullError | errors.RateLimitError):
        retry_after_s = max(1, math.ceil(error.retry_after_s))
    return error_response(
        rule.status,
        rule.type,
        str(error),
        request_id_of(request),
        path=request.scope["path"],
        param=PARAM_OF.get(type(error)),
        headers=_retry_headers(error, retry_after_s),
    )


def _retry_headers(error: errors.TTSError, retry_after_s: int | None) -> dict[str, str]:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if isinstance(error, errors.OverloadedError) and error.predicted_ttfa_s is not None:
        headers[PREDICTED_TTFA_HEADER] = str(round(1000 * error.predicted_ttfa_s))
    return headers


def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    params = [_param_of(item) for item in error.errors()]
    return error_response(
        dialect_of(request.scope["path"]).validation_status,
        VALIDATION_ERROR_TYPE,
        validation_message(error.errors()),
        request_id_of(request),
        path=request.scope["path"],
        param=next((param for param in params if param), None),
    )


def validation_message(items: Sequence[Any]) -> str:
    """Write pydantic's list of errors as one line: each field and what is wrong with it."""
    parts: list[str] = []
    for item in items:
        param = _param_of(item)
        parts.append(f"{param}: {_readable(item)}" if param else _readable(item))
    return "; ".join(parts)


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message = str(error.detail)
    if message == phrase:  # the router's own 404 and 405 say no more than that
        path = request.scope["path"][:_MAX_QUOTED_PATH_CHARS]
        message = f"{phrase}: {request.method} {path}; GET /docs lists what there is"
    return error_response(
        error.status_code,
        phrase.lower().replace(" ", "_"),
        message,
        request_id_of(request),
        path=request.scope["path"],
        headers=error.headers,
    )


def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _param_of(item: Mapping[str, Any]) -> str | None:
    names = [part for part in item["loc"] if isinstance(part, str)]
    if names and names[0] in ("body", "query", "path"):
        names = names[1:]
    return ".".join(names) or None


def _readable(item: Mapping[str, Any]) -> str:
    """Give pydantic's message with the refused value, where a short one was given."""
    message = str(item["msg"])
    value = item.get("input")
    if item["type"] in ("missing", "extra_forbidden", "json_invalid") or isinstance(value, dict):
        return message
    quoted = repr(value)
    if len(quoted) > _MAX_QUOTED_CHARS:
        quoted = quoted[:_MAX_QUOTED_CHARS] + "..."
    return f"{message}, got {quoted}"
