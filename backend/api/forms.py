"""Read forms whose fields may come several times: lists of texts, lists of files."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from backend.api.bodies import MAX_FIELDS, MULTIPART, URLENCODED

_MAX_FILES = 16


@dataclass(slots=True)
class Form:
    """What a form holds, by field; empty files and fields are left out.

    Attributes:
        texts: Values of text fields, in order.
        files: Contents of files, in order.
    """

    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    files: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])

    def text(self, *names: str) -> str | None:
        """Give the value of the first of these fields that is there.

        Raises:
            RequestValidationError: It came more than once.
        """
        for name in names:
            values = self.texts.get(name, [])
            if len(values) > 1:
                raise refused_field(name, "is given more than once; send it once")
            if values:
                return values[0]
        return None

    def required_text(self, *names: str) -> str:
        """Give the value of the first of these fields that is there.

        Raises:
            RequestValidationError: None is, or it came more than once.
        """
        value = self.text(*names)
        if value is None:
            raise refused_field(names[0], "is required")
        return value

    def unknown(self, *known: str) -> list[str]:
        """Give the names of fields and files that are not among these."""
        return [name for name in (*self.texts, *self.files) if name not in known]


async def read_form(request: Request, max_bytes: int) -> Form:
    """Read a form.

    Args:
        request: Its body has not been read.
        max_bytes: Largest text field; the whole body is bounded by the middleware.

    Raises:
        HTTPException: 415 for another media type, 400 for a form that cannot be parsed.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (MULTIPART, URLENCODED):
        raise HTTPException(
            415, f"Content-Type {media_type or '(none)'!r} is not read here; send {MULTIPART}"
        )
    read = Form()
    async with request.form(
        max_files=_MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_bytes
    ) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                if value:
                    read.texts.setdefault(name, []).append(value)
                continue
            content = await value.read()
            if content:
                read.files.setdefault(name, []).append(content)
    return read


def refused_field(name: str, message: str) -> RequestValidationError:
    """Make the error for a form's field."""
    return RequestValidationError([{"type": "missing", "loc": (name,), "msg": message}])
