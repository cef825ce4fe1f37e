"""What every request passes: its id and the last error handler, and the limits on bodies.

Plain ASGI, because Starlette's ``BaseHTTPMiddleware`` hides disconnects from what is behind it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.errors import INTERNAL_ERROR_TYPE, REQUEST_ID_HEADER, error_response
from backend.core.errors import PayloadTooLargeError, RequestTimeoutError, TTSError
from backend.telemetry.logs import request_context

logger = logging.getLogger(__name__)

BODY_STALL_TIMEOUT_S = 20.0
BODY_TIMEOUT_S = 300.0
"""20 MiB in this time is 0.6 Mbit/s."""

_INTERNAL_ERROR_CODE = 1011
_SWITCHING_PROTOCOLS = 101
_FORBIDDEN = 403
"""What a server answers when a WebSocket is closed before it was opened."""
_MAX_LENGTH_DIGITS = 20

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET_PATHS = frozenset({"/health", "/health/ready", "/metrics", "/metrics/prometheus"})
"""Asked every few seconds by machines; their lines would hide the others."""


class RequestContextMiddleware:
    """Give the request an id, log it, and answer what nobody else caught.

    ``X-Request-Id`` of the client is used when it is 1 to 64 letters, digits, ``.``, ``_``, ``-``;
    otherwise a new one is made. It stands in every log line and in the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _choose_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        with request_context(request_id):
            await self._handle(scope, receive, _Answer(send, request_id))

    async def _handle(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        started = time.monotonic()
        method = scope.get("method", "WebSocket")
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001 - the last handler; what it meets is logged
            _log_failure(error, f"{method} {scope['path']}", has_begun=answer.has_begun)
            if not answer.has_begun:
                await _apologize(scope, receive, answer)
            elif scope["type"] == "websocket" and not answer.has_ended:
                await answer.send({"type": "websocket.close", "code": _INTERNAL_ERROR_CODE})
            # An answer that has begun and lacks its end makes the server cut the connection.
        finally:
            logger.log(
                logging.DEBUG if scope["path"] in _QUIET_PATHS else logging.INFO,
                "%s %s %d in %.0f ms",
                method,
                scope["path"],
                answer.status,
                (time.monotonic() - started) * 1000,
            )


class _Answer:
    """What is sent to the client, watched: how far it is, and with which status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.has_ended = False

    @property
    def has_begun(self) -> bool:
        return self.status != 0

    async def send(self, message: Message) -> None:
        """Pass one message on; a start gets the request's id."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self.request_id
            case "websocket.accept":
                self.status = _SWITCHING_PROTOCOLS
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self.request_id
            case "websocket.close":
                self.status = self.status or _FORBIDDEN
                self.has_ended = True
            case _:
                pass
        await self._send(message)


class BodyLimitMiddleware:
    """Refuse request bodies that are too large, or that take too long to come.

    The size is known by ``Content-Length`` or by counting what comes. Without the time limits a
    few clients that send a byte now and then could hold all connections.

    Args:
        app: What is behind.
        max_bytes: Largest body.
        stall_timeout_s: Longest wait for the next piece of a body.
        total_timeout_s: Longest time for the whole body.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        stall_timeout_s: float = BODY_STALL_TIMEOUT_S,
        total_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._stall_timeout_s = stall_timeout_s
        self._total_timeout_s = total_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        deadline = time.monotonic() + self._total_timeout_s
        num_received = 0
        is_complete = is_too_slow = False

        async def receive_counted() -> Message:
            nonlocal num_received, is_complete, is_too_slow
            if is_complete:
                return await receive()  # waits for the client to leave, however long that takes
            if announced.isdecimal() and int(announced[:_MAX_LENGTH_DIGITS]) > self._max_bytes:
                raise self._too_large()
            patience_s = min(self._stall_timeout_s, deadline - time.monotonic())
            try:
                async with asyncio.timeout(max(0.0, patience_s)):
                    message = await receive()
            except TimeoutError:
                is_too_slow = True
                raise RequestTimeoutError(
                    f"the request's body stopped after {num_received} bytes; send it faster"
                ) from None
            num_received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_received > self._max_bytes:
                raise self._too_large()
            return message

        async def send_last(message: Message) -> None:
            if is_too_slow and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive_counted, send_last)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"the request is larger than {self._max_bytes >> 20} MiB; send a shorter recording or "
            "a compressed one (MP3, Opus), or raise MAX_UPLOAD_MB"
        )


def _log_failure(error: Exception, what: str, *, has_begun: bool) -> None:
    """Say in one line what the project raised on purpose; anything else needs its traceback."""
    # Starlette wraps what its handlers may no longer answer.
    expected = next((e for e in (error, error.__cause__) if isinstance(e, TTSError)), None)
    if has_begun and expected is not None:
        logger.error("cut the answer to %s: %s: %s", what, type(expected).__name__, expected)
    else:
        logger.error("unexpected error in %s", what, exc_info=error)


async def _apologize(scope: Scope, receive: Receive, answer: _Answer) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope["extensions"]:
        await answer.send({"type": "websocket.close", "code": _INTERNAL_ERROR_CODE})
        return
    response = error_response(
        500,
        INTERNAL_ERROR_TYPE,
        "the server made a mistake; its log has the details under this request id",
        answer.request_id,
        path=scope["path"],
    )
    await response(scope, receive, answer.send)


def _choose_id(offered: str | None) -> str:
    return offered if offered and _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
