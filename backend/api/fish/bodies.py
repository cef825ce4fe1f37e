"""Read and write bodies in msgpack or JSON, whichever the client speaks."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeVar

import ormsgpack
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from backend.api.bodies import JSON
from backend.core.errors import InvalidInputError

MSGPACK = "application/msgpack"
_MSGPACK_NAMES = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")

_Schema = TypeVar("_Schema", bound=BaseModel)


def unpack(content: bytes) -> Any:
    """Read one msgpack value.

    Raises:
        InvalidInputError: It is not msgpack.
    """
    try:
        return ormsgpack.unpackb(content)
    except ormsgpack.MsgpackDecodeError as error:
        raise InvalidInputError(f"this is not msgpack: {error}") from error


def parse(value: object, schema: type[_Schema]) -> _Schema:
    """Fit a value that came as msgpack into a schema.

    Raises:
        RequestValidationError: It does not fit.
    """
    try:
        return schema.model_validate(value, strict=True)
    except ValidationError as error:
        raise _as_request_error(error) from error


async def read_body(request: Request, schema: type[_Schema]) -> _Schema:
    """Read a body in msgpack or JSON.

    Raises:
        HTTPException: 415 for another media type.
        InvalidInputError: It is not msgpack although it says so.
        RequestValidationError: It is not JSON although it says so, or does not fit.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in _MSGPACK_NAMES:
        return parse(unpack(await request.body()), schema)
    if media_type != JSON:
        raise HTTPException(
            415, f"Content-Type {media_type or '(none)'!r} is not read; send {MSGPACK} or {JSON}"
        )
    try:
        return schema.model_validate_json(await request.body() or b"{}", strict=True)
    except ValidationError as error:
        raise _as_request_error(error) from error


def reply(request: Request, content: dict[str, Any], status: int = 200) -> Response:
    """Answer in JSON, with bytes as base64, when the client prefers or sent it; else in msgpack."""
    accepted = request.headers.get("accept", "")
    wants_json = "json" in (request.query_params.get("format"), _subtype(accepted))
    if wants_json or _subtype(request.headers.get("content-type", "")) == "json":
        text = json.dumps(content, default=_as_base64)
        return Response(text, status_code=status, media_type=JSON)
    return Response(ormsgpack.packb(content), status_code=status, media_type=MSGPACK)


def _as_base64(value: object) -> str:
    assert isinstance(value, bytes)  # nothing else in our answers is foreign to JSON
    return base64.b64encode(value).decode("ascii")


def _subtype(header: str) -> str:
    if "msgpack" in header:
        return "msgpack"
    return "json" if JSON in header else ""


def _as_request_error(error: ValidationError) -> RequestValidationError:
    return RequestValidationError(
        [
            {**item, "input": None if isinstance(item.get("input"), bytes) else item.get("input")}
            for item in error.errors(include_url=False, include_context=False)
        ]
    )
