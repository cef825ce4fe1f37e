"""Who may use the service, and how much: keys, origins, limits for each caller.

==============================  ===================================================
setting                         effect
==============================  ===================================================
``API_KEYS``                    every path but ``OPEN_PATHS`` asks for one of them
``CORS_ORIGINS``                web pages that may call; without keys others are refused
``RATE_LIMIT_PER_MINUTE``       token bucket for each key, or address where there are no keys
``MAX_CONCURRENT_PER_KEY``      requests open at a time for each of them
==============================  ===================================================

Plain ASGI and in front of everything that reads a body: a request that is refused costs a hash.
"""

from __future__ import annotations

import ipaddress
import logging
from contextlib import ExitStack
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.limits import CallerLimits, network_of
from backend.core.api_keys import find_key
from backend.core.errors import (
    AuthenticationError,
    OriginNotAllowedError,
    RateLimitError,
    TTSError,
)
from backend.core.settings import Settings

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/health", "/health/ready", "/v1/health", "/docs", "/openapi.json"})
"""Asked without a key by load balancers and people who want to know what this is."""
OPEN_PREFIX = "/docs/"
"""The scripts and styles of the documentation page."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY_VIOLATION = 1008


class SecurityMiddleware:
    """Refuse callers that may not use the service, or not so much of it.

    Args:
        app: What is behind.
        settings: Keys, origins and limits.
        limits: Counts; made from the settings when None.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, limits: CallerLimits | None = None
    ) -> None:
        self._app = app
        self._keys = settings.api_keys
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)
        self._guards_names = not settings.api_keys and is_loopback(settings.host)
        self._limits = limits or CallerLimits(
            settings.rate_limit_per_minute, settings.max_concurrent_per_key
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket") or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        with ExitStack() as admission:
            try:
                caller = self._identify(scope)
                if _is_work(scope):
                    admission.enter_context(self._limits.open(caller))
            except TTSError as error:
                logger.warning("refused %s: %s", scope["path"], type(error).__name__)
                await _refuse(error, scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> str:
        """Give the name that a caller's requests are counted under.

        Raises:
            AuthenticationError: No key, or a wrong one.
            OriginNotAllowedError: A web page calls that may not.
            RateLimitError: An address has offered too many wrong keys.
        """
        address = network_of(scope["client"][0] if scope.get("client") else "unknown")
        if not self._keys:
            self._check_origin(scope)
            return address
        offered = _offered_keys(scope)
        key = find_key(offered, self._keys)
        if key is not None:
            return key
        self._limits.spend(address)  # guessing is slowed down as any other use is
        if not offered:
            raise AuthenticationError(
                "this server asks for an API key; send the header 'Authorization: Bearer KEY' "
                "or 'x-api-key: KEY'"
            )
        raise AuthenticationError("this API key is not known here; check it, or ask for one")

    def _check_origin(self, scope: Scope) -> None:
        """Keep web pages of other origins out, where no key does.

        A browser sends simple forms and WebSockets from any page to any address, loopback
        included, and CORS only hides the answer. A page can also give its own name the address
        127.0.0.1 (DNS rebinding), so a server for this machine only answers to names that it has.
        """
        host = _header(scope, b"host").lower()
        origin = _header(scope, b"origin").lower()
        if "*" in self._origins or origin in self._origins:
            return
        if self._guards_names and not self._is_own_name(host):
            raise OriginNotAllowedError(
                f"this server answers to localhost, not to {host[:80]!r}; behind a proxy set "
                "API_KEYS, or add http://NAME to CORS_ORIGINS"
            )
        if origin and _is_work(scope) and origin.partition("://")[2] != host:
            raise OriginNotAllowedError(
                f"web pages of {origin[:80]!r} may not use this server; add the origin to "
                "CORS_ORIGINS"
            )

    def _is_own_name(self, host: str) -> bool:
        if not host:
            return True  # HTTP/1.0; no browser leaves it out
        name = _name_of(host)
        if name is None:
            return False
        if "." not in name or name.endswith(".localhost") or _is_address(name):
            return True  # no page of the web has such a name
        return any(name == _name_of(origin.partition("://")[2]) for origin in self._origins)


def is_loopback(host: str) -> bool:
    """Tell whether a server that listens on ``host`` can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def warn_if_open_to_all(settings: Settings) -> None:
    """Say loudly when everybody in the network may use the service."""
    if not settings.api_keys and not is_loopback(settings.host):
        logger.warning(
            "!!! NO API KEY IS SET and HOST=%s lets other machines in: everybody who reaches "
            "port %d may use this server. Set API_KEYS, or HOST=127.0.0.1 !!!",
            settings.host,
            settings.port,
        )


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def _is_work(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in _READING


def _header(scope: Scope, name: bytes) -> str:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1").strip() if values else ""


def _offered_keys(scope: Scope) -> list[bytes]:
    offered: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            offered.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                offered.append(key.strip())
    return [key for key in offered if key]


def _name_of(host: str) -> str | None:
    """Give the name in ``name:port`` or ``[address]:port``; None when it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(error: TTSError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the app's own handler does, so that each dialect sees its own envelope."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope["extensions"]:
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": str(error)})
        return
    request = Request({**scope, "type": "http", "method": scope.get("method", "GET")})
    response: Response = scope["app"].exception_handlers[TTSError](request, error)
    if isinstance(error, AuthenticationError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, AuthenticationError | RateLimitError | OriginNotAllowedError):
        response.headers["Cache-Control"] = "no-store"
    await response(scope, receive, send)
