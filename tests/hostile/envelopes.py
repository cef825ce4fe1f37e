"""What a clear refusal is, in each dialect."""

from __future__ import annotations

import re

import httpx2

from backend.api.dialects import FISH, NATIVE, OPENAI, dialect_of

MAX_MESSAGE_CHARS = 1500
INNARDS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|object at 0x|NoneType|KeyError|pydantic|/tmp/|/usr/"
)
"""What no message may show: it would help nobody, or the wrong people."""


def message_of(answer: httpx2.Response, path: str) -> str:
    """Check that an answer is an error of its path's dialect, and give its message."""
    assert answer.headers["Content-Type"] == "application/json", answer.text[:300]
    body = answer.json()
    dialect = dialect_of(path)
    if dialect is FISH:
        assert set(body) == {"status", "message"}
        assert body["status"] == answer.status_code
        message = body["message"]
    else:
        assert set(body) == {"error"}
        keys = {OPENAI.name: {"message", "type", "param", "code"}}
        native = {"message", "type", "param", "request_id"}
        assert set(body["error"]) == keys.get(dialect.name, native)
        message = body["error"]["message"]
        if dialect is NATIVE:
            assert body["error"]["request_id"] == answer.headers["X-Request-Id"]
    assert isinstance(message, str)
    assert 5 < len(message) <= MAX_MESSAGE_CHARS, len(message)
    assert not INNARDS.search(message), message
    return message
