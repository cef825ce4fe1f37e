"""Logging: text for people or JSON lines for collectors, with the request id, without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from backend.core.settings import Settings

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

REDACTED: Final = "[redacted]"

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_SECRET_PATTERN = re.compile(
    r"\bhf_\w{8,}"  # access tokens of the Hugging Face hub
    r"|(?<=[Bb]earer )[\w.~+/=-]+"
    r"|(?<=[Tt]oken=)[^\s&\"']+"
    r"|(?<=[Aa]pi_key=)[^\s&\"']+"
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_SAID_BETTER = frozenset(
    {
        "ASGI callable returned without completing response.",  # an answer was cut
        "ASGI callable returned without completing handshake.",  # a WebSocket was refused
    }
)
"""uvicorn's words on what our own lines explain, with the request's id."""
_FOREIGN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


@contextmanager
def request_context(request_id: str) -> Generator[None]:
    """Put ``request_id`` into every log line that this task or thread writes inside the block."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def current_request_id() -> str | None:
    """Give the id that ``request_context`` set, or None outside of any."""
    return _request_id.get()


def setup_logging(
    level: LogLevel,
    log_format: LogFormat,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send all logging to one stream. Calling it again replaces the earlier set-up.

    Args:
        level: Least severe level that is written.
        log_format: ``"text"`` or ``"json"`` (one object a line).
        secrets: Exact strings that never appear in a line, besides everything that looks like an
            access token.
        stream: Where lines go; standard error by default.
    """
    formatter = JsonFormatter(secrets) if log_format == "json" else TextFormatter(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _FOREIGN_LOGGERS:  # uvicorn brings handlers of its own: each line would come twice
        foreign = logging.getLogger(name)
        foreign.handlers.clear()
        foreign.propagate = True
        foreign.addFilter(_says_something_new)


def setup_logging_of(settings: Settings) -> None:
    """Send all logging where and how the settings say, without the secrets in them."""
    token = settings.hf_token
    secrets = () if token is None else (token.get_secret_value(),)
    setup_logging(settings.log_level, settings.log_format, secrets=secrets)


def _says_something_new(record: logging.LogRecord) -> bool:
    return record.msg not in _SAID_BETTER


class _RedactingFormatter(logging.Formatter):
    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret]

    def redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _SECRET_PATTERN.sub(REDACTED, text)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Give the UTC time with milliseconds, whatever the machine's zone is."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.strftime(datefmt) if datefmt else moment.isoformat(timespec="milliseconds")

    def traceback_of(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class TextFormatter(_RedactingFormatter):
    """``time LEVEL logger [request] message``, and a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        request_id = current_request_id()
        where = f"{record.name} [{request_id}]" if request_id else record.name
        # A message may quote a client; its line breaks must not look like further records.
        message = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], record.getMessage())
        line = f"{self.formatTime(record)} {record.levelname:<7} {where} {message}"
        traceback = self.traceback_of(record)
        return self.redact(line if traceback is None else f"{line}\n{traceback}")


class JsonFormatter(_RedactingFormatter):
    """One JSON object a line.

    Keys: ``time``, ``level``, ``logger``, ``message``; ``request_id`` inside a request;
    ``traceback`` with an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.redact(record.getMessage()),
        }
        request_id = current_request_id()
        if request_id is not None:
            entry["request_id"] = request_id
        traceback = self.traceback_of(record)
        if traceback is not None:
            entry["traceback"] = self.redact(traceback)
        return json.dumps(entry, ensure_ascii=False)
