"""Read request bodies: JSON and forms into the same schemas, refusing what is not known."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from backend.core.errors import InvalidAudioError

JSON = "application/json"
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
MAX_FIELDS = 64
MAX_FILES = 4

_Schema = TypeVar("_Schema", bound=BaseModel)


async def read_json(
    request: Request, schema: type[_Schema], file_field: str | None = None
) -> _Schema:
    """Read a JSON body; an empty one counts as ``{}``.

    Args:
        request: Its body has not been read.
        schema: What it must fit.
        file_field: A field that only a form can carry; its error says so.

    Raises:
        RequestValidationError: It is not JSON or does not fit ``schema``.
    """
    body = await request.body()
    try:
        # strict: 1 is no string, "1" no number, true no number
        return schema.model_validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        raise _as_request_error(error, schema, file_field) from error


async def read_json_or_form(
    request: Request, schema: type[_Schema], file_field: str, max_bytes: int
) -> tuple[_Schema, bytes | None]:
    """Read a JSON body, or a form with the same fields and perhaps a file.

    Args:
        request: Its body has not been read.
        schema: What it must fit.
        file_field: The one field of a multipart form that is a file.
        max_bytes: Largest text field; the whole body is bounded by the middleware.

    Returns:
        The fields, and the file's content or None when there is none.

    Raises:
        HTTPException: 415 for another media type, 400 for a form that cannot be parsed.
        RequestValidationError: A field is unknown, repeated, of the wrong kind or out of range.
        InvalidAudioError: The file is empty.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == JSON:
        return await read_json(request, schema, file_field), None
    if media_type not in (MULTIPART, URLENCODED):
        raise HTTPException(
            415, f"Content-Type {media_type or '(none)'!r} is not read; send {JSON} or {MULTIPART}"
        )
    async with request.form(
        max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_bytes
    ) as form:
        _refuse_repeated(form)
        content = await _read_file(form, file_field)
        fields = _text_fields(form, schema, file_field)
    try:
        return schema.model_validate_strings(fields), content
    except ValidationError as error:
        raise _as_request_error(error, schema) from error


def _text_fields(form: FormData, schema: type[BaseModel], file_field: str) -> dict[str, str]:
    """Give the fields that are text. Browsers send optional fields empty: these are absent."""
    fields: dict[str, str] = {}
    for name, value in form.items():
        if name == file_field:
            continue
        if isinstance(value, UploadFile):
            raise _refusal(name, "is a file here; send it as plain text")
        known = schema.model_fields.get(name)
        if value or known is None or known.is_required():
            fields[name] = value
    return fields


async def _read_file(form: FormData, file_field: str) -> bytes | None:
    value = form.get(file_field)
    if value is None or value == "":
        return None
    if not isinstance(value, UploadFile):
        raise _refusal(
            file_field, "must be an uploaded file, as with curl -F speaker_file=@voice.wav"
        )
    content = await value.read()
    if content:
        return content
    if not value.filename:
        return None  # a browser's file input in which nothing was chosen
    raise InvalidAudioError(
        f"the uploaded file {value.filename[:80]!r} is empty (0 bytes); choose a recording"
    )


def _refuse_repeated(form: FormData) -> None:
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise _refusal(name, "is given more than once; send it once")


def _refusal(field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "extra_forbidden", "loc": (field,), "msg": message}])


def _as_request_error(
    error: ValidationError, schema: type[BaseModel], file_field: str | None = None
) -> RequestValidationError:
    items: list[Any] = []
    for item in error.errors(include_url=False, include_context=False):
        message = item["msg"]
        if item["type"] == "extra_forbidden" and item["loc"] == (file_field,):
            message = f"is a file; send the request as {MULTIPART}"
        elif item["type"] == "extra_forbidden":
            message = f"is not a known field; the fields are {', '.join(schema.model_fields)}"
        items.append({**item, "msg": message})
    return RequestValidationError(items)
