"""The OpenAPI document: what every operation has in common is added here, once.

Routers describe what is theirs. Keys, refusals of the middleware and the envelope of errors are
the same for all, so no router has to remember them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api.dialects import FISH, OPENAI, dialect_of
from backend.api.schemas import ErrorResponse
from backend.api.security import OPEN_PATHS

_METHODS = frozenset({"get", "put", "post", "delete", "patch"})

_TAGS = {
    "speech": "Text in, speech out.",
    "voices": "The library of voices: add, examine, change, export and import them.",
    "jobs": "Long texts in the background, with progress.",
    "OpenAI dialect": "For clients of OpenAI's audio API: set their base URL to `/v1`.",
    "Fish dialect": (
        "For clients of Fish Audio's API, `fish-audio-sdk` included: set their base URL to this "
        "server. `WS /v1/tts/live` takes text while it is written; OpenAPI cannot describe it."
    ),
    "operation": "How the service is, and what it has done.",
}
"""Groups of operations, in the order in which the page shows them."""

_NATIVE_ERROR, _OPENAI_ERROR, _FISH_ERROR = "ErrorResponse", "OpenAIError", "FishError"
_MESSAGE = {"type": "string", "description": "What is wrong and what to do about it."}
_FOREIGN_ENVELOPES: dict[str, Any] = {
    _OPENAI_ERROR: {
        "type": "object",
        "title": "OpenAI's error envelope",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": _MESSAGE,
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    _FISH_ERROR: {
        "type": "object",
        "title": "Fish Audio's error envelope",
        "required": ["status", "message"],
        "properties": {"status": {"type": "integer"}, "message": _MESSAGE},
    },
}

_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which a new try has a chance.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_DESCRIPTIONS = {
    400: "The request cannot be served as it is; the message names the fix.",
    401: "An API key is missing or not known.",
    403: "A web page of an origin that is not allowed asks, or this must not be changed.",
    404: "There is no such thing.",
    408: "The request's body came too slowly.",
    409: "The name is taken, or the thing is in a state that does not allow this.",
    413: "The request is larger than `MAX_UPLOAD_MB`.",
    415: "The body has a media type that is not read.",
    422: "A field or parameter is unknown, missing, of the wrong kind or out of range.",
    429: "The queue is full, or this key (or address) asks for more than its share.",
    500: "The server made a mistake; its log has the details under the request id.",
    501: "This is not offered here.",
    503: "The engine is starting, restarting or closed.",
    504: "The engine took too long; the message names the setting.",
}


def describe_api(app: FastAPI, *, asks_for_key: bool) -> None:
    """Make ``app`` give the complete document at its ``openapi_url``.

    Args:
        app: All its routers are included.
        asks_for_key: Whether the service has API keys.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _complete(document, asks_for_key=asks_for_key)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi


def _complete(document: dict[str, Any], *, asks_for_key: bool) -> None:
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    native = ErrorResponse.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(native.pop("$defs"))
    schemas[_NATIVE_ERROR] = native
    schemas.update(_FOREIGN_ENVELOPES)
    for path, operation in _operations(document):
        _add_errors(path, operation, asks_for_key=asks_for_key)
    used = [tag for _, operation in _operations(document) for tag in operation.get("tags", [])]
    names = [name for name in _TAGS if name in used]
    names += [name for name in dict.fromkeys(used) if name not in _TAGS]
    document["tags"] = [{"name": name, "description": _TAGS.get(name, "")} for name in names]
    if asks_for_key:
        _add_security(document)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, operation


def _add_errors(path: str, operation: dict[str, Any], *, asks_for_key: bool) -> None:
    """Describe the answers that any operation of this kind can give and that it does not name."""
    responses: dict[str, Any] = operation["responses"]
    validation_status = dialect_of(path).validation_status
    statuses = {500}
    if path not in OPEN_PATHS:
        statuses |= {429, 401 if asks_for_key else 403}
    if "requestBody" in operation:
        statuses |= {400, 408, 413, validation_status}
    if "{" in path:
        statuses |= {404}
    if "501" in responses and not _has_schema(responses.get("200", {})):
        responses.pop("200", None)  # FastAPI's default, for an operation that is never done
    if "422" in responses and _is_fastapis_own(responses["422"]):
        del responses["422"]
        statuses |= {int(validation_status)}
    for status in sorted(statuses):
        responses.setdefault(str(int(status)), {})
    for status, response in responses.items():
        if status.isdecimal() and int(status) >= 400:
            _describe(int(status), response, path)
    operation["responses"] = dict(sorted(responses.items()))


def _describe(status: int, response: dict[str, Any], path: str) -> None:
    if "content" not in response:
        schema = {"$ref": f"#/components/schemas/{_envelope_of(path)}"}
        response["content"] = {"application/json": {"schema": schema}}
        response["description"] = _DESCRIPTIONS.get(status, "An error.")
    elif status in _DESCRIPTIONS and "model" not in response:
        response["description"] = _DESCRIPTIONS[status]
    if status in (429, 503) and "headers" not in response:
        response["headers"] = _RETRY_AFTER


def _envelope_of(path: str) -> str:
    dialect = dialect_of(path)
    return {FISH: _FISH_ERROR, OPENAI: _OPENAI_ERROR}.get(dialect, _NATIVE_ERROR)


def _has_schema(response: dict[str, Any]) -> bool:
    return any(content.get("schema") for content in response.get("content", {}).values())


def _is_fastapis_own(response: dict[str, Any]) -> bool:
    return "HTTPValidationError" in str(response.get("content"))


def _add_security(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "One of `API_KEYS`."},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    for path, operation in _operations(document):
        if path not in OPEN_PATHS:
            operation["security"] = [{"bearer": []}, {"x-api-key": []}]
