"""What every request passes: its id and the last error handler, and the limit on bodies.

Plain ASGI, because Starlette's ``BaseHTTPMiddleware`` hides disconnects from what is behind it.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.errors import INTERNAL_ERROR_TYPE, REQUEST_ID_HEADER, error_response
from backend.core.errors import PayloadTooLargeError
from backend.telemetry.logs import request_context

logger = logging.getLogger(__name__)

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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _choose_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        with request_context(request_id):
            await self._handle(scope, receive, send, request_id)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("unexpected error in %s %s", scope["method"], scope["path"])
            if status:
                raise  # the answer has begun: the server cuts the connection
            answer = error_response(
                500,
                INTERNAL_ERROR_TYPE,
                "the server made a mistake; its log has the details under this request id",
                request_id,
            )
            await answer(scope, receive, send_with_id)
        finally:
            logger.log(
                logging.DEBUG if scope["path"] in _QUIET_PATHS else logging.INFO,
                "%s %s %d in %.0f ms",
                scope["method"],
                scope["path"],
                status,
                (time.monotonic() - started) * 1000,
            )


class BodyLimitMiddleware:
    """Refuse request bodies beyond a limit, by ``Content-Length`` or by counting what comes.

    Args:
        app: What is behind.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        num_received = 0

        async def receive_counted() -> Message:
            nonlocal num_received
            if announced.isdecimal() and int(announced) > self._max_bytes:
                raise self._too_large()
            message = await receive()
            num_received += len(message.get("body", b""))
            if num_received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_counted, send)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"the request is larger than {self._max_bytes >> 20} MiB; send a shorter recording or "
            "a compressed one (MP3, Opus), or raise MAX_UPLOAD_MB"
        )


def _choose_id(offered: str | None) -> str:
    return offered if offered and _SANE_ID.fullmatch(offered) else uuid.uuid4().hex
