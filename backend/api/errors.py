"""One table from errors to answers, and the handlers that use it.

Every answer that is not a success has the same body::

    {"error": {"type": "voice_not_found", "message": "...", "param": null, "request_id": "..."}}
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

from backend.api.schemas import ErrorDetail, ErrorResponse
from backend.core import errors

REQUEST_ID_HEADER = "X-Request-Id"
INTERNAL_ERROR_TYPE = "internal_error"
VALIDATION_ERROR_TYPE = "invalid_request"
CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it; it is what logs say for a client that left."""

_STARTING_RETRY_AFTER_S = 3
_MAX_QUOTED_CHARS = 60


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
    errors.VoiceNotFoundError: ErrorRule(404, "voice_not_found"),
    errors.PayloadTooLargeError: ErrorRule(413, "payload_too_large"),
    errors.QueueFullError: ErrorRule(429, "queue_full", retry_after_s=1),
    errors.EngineUnavailableError: ErrorRule(503, "engine_unavailable", _STARTING_RETRY_AFTER_S),
    errors.ServiceClosedError: ErrorRule(503, "service_closed", _STARTING_RETRY_AFTER_S),
    errors.GenerationError: ErrorRule(500, "generation_failed"),
    errors.RequestNotFoundError: ErrorRule(404, "request_not_found"),
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
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make the answer for something that went wrong."""
    detail = ErrorDetail(type=error_type, message=message, param=param, request_id=request_id)
    body = ErrorResponse(error=detail).model_dump()
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


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
    if isinstance(error, errors.QueueFullError):
        retry_after_s = max(1, math.ceil(error.retry_after_s))
    return error_response(
        rule.status,
        rule.type,
        str(error),
        request_id_of(request),
        param=PARAM_OF.get(type(error)),
        headers={} if retry_after_s is None else {"Retry-After": str(retry_after_s)},
    )


def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    items: Sequence[Any] = error.errors()
    params = [_param_of(item) for item in items]
    messages = [
        f"{param}: {_readable(item)}" if param else _readable(item)
        for param, item in zip(params, items, strict=True)
    ]
    return error_response(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        VALIDATION_ERROR_TYPE,
        "; ".join(messages),
        request_id_of(request),
        param=next((param for param in params if param), None),
    )


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message = str(error.detail)
    if message == phrase:  # the router's own 404 and 405 say no more than that
        message = f"{phrase}: {request.method} {request.url.path}; GET /docs lists what there is"
    return error_response(
        error.status_code,
        phrase.lower().replace(" ", "_"),
        message,
        request_id_of(request),
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
