"""Connections that never get to a request: what uvicorn itself waits for without an end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # the one that is picked where httptools is installed; both are alike
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as AutoHTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_TIMEOUT_S = 20.0
MAX_HEADER_BYTES = 1 << 16
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: 29\r\n\r\n"
    b"The headers are over 64 KiB.\n"
)


class _Cycle(Protocol):
    response_complete: bool


class ImpatientHttpProtocol(AutoHTTPProtocol):
    """uvicorn's protocol, which closes a connection whose request line and headers do not end.

    A client that opens a connection and says nothing, or a header line now and then, would hold
    its file descriptor for ever; one that sends headers without an end would fill the memory. The
    body is ``BodyLimitMiddleware``'s.
    """

    header_timeout_s = HEADER_TIMEOUT_S
    max_header_bytes = MAX_HEADER_BYTES
    _num_header_bytes = 0
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes; they may complete the headers of a request, or begin another one."""
        super().data_received(data)
        self._num_header_bytes += len(data)
        self._watch()
        if self._is_between_requests() and self._num_header_bytes > self.max_header_bytes:
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if not self._is_between_requests():
            self._unwatch()
            self._num_header_bytes = 0
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _unwatch(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _is_between_requests(self) -> bool:
        if self.transport.get_protocol() is not self:
            return False  # a WebSocket by now, which has timeouts of its own
        cycle = cast("_Cycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _give_up(self) -> None:
        self._header_timer = None
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()
