"""How much one caller may ask for: a token bucket and a count of open requests for each."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from backend.core.errors import RateLimitError

MAX_CALLERS = 10_000
"""Callers that are remembered; the one that was idle longest goes first."""

_IPV6_NETWORK_BITS = 64
"""What one customer of a provider gets; single addresses would be a fresh bucket each."""


@dataclass(slots=True)
class _Account:
    tokens: float
    counted_at: float
    num_open: int = 0


class CallerLimits:
    """Count what callers ask for. For the event loop's thread only.

    Args:
        per_minute: Requests a minute, also the largest burst; 0 is no limit.
        max_open: Requests open at a time; 0 is no limit.
        clock: Seconds that never go back.
        max_callers: Callers that are remembered.
    """

    def __init__(
        self,
        per_minute: int,
        max_open: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._per_minute = per_minute
        self._max_open = max_open
        self._clock = clock
        self._max_callers = max_callers
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def __len__(self) -> int:
        """Callers that are remembered now."""
        return len(self._accounts)

    @contextmanager
    def open(self, caller: str) -> Generator[None]:
        """Count a request that is open inside the block.

        Raises:
            RateLimitError: The caller has too many open, or has made too many in the last minute.
        """
        account = self._find(caller)
        if self._max_open and account.num_open >= self._max_open:
            raise RateLimitError(
                f"{self._max_open} of your requests are open, and no more are allowed at a time; "
                "wait for one to end (the server's MAX_CONCURRENT_PER_KEY sets the limit)"
            )
        self._spend(account)
        account.num_open += 1
        try:
            yield
        finally:
            account.num_open -= 1

    def spend(self, caller: str) -> None:
        """Count a request that ends at once.

        Raises:
            RateLimitError: The caller has made too many in the last minute.
        """
        self._spend(self._find(caller))

    def _find(self, caller: str) -> _Account:
        account = self._accounts.get(caller)
        if account is None:
            account = _Account(self._per_minute, self._clock())
            self._accounts[caller] = account
            self._forget_idle()
        self._accounts.move_to_end(caller)
        return account

    def _forget_idle(self) -> None:
        """Drop callers that have nothing open; those that have are as many as connections."""
        excess = len(self._accounts) - self._max_callers
        if excess > 0:
            idle = (name for name, account in self._accounts.items() if account.num_open == 0)
            for name in [name for name, _ in zip(idle, range(excess), strict=False)]:
                del self._accounts[name]

    def _spend(self, account: _Account) -> None:
        if not self._per_minute:
            return
        now = self._clock()
        gained = (now - account.counted_at) * self._per_minute / 60
        account.tokens = min(self._per_minute, account.tokens + gained)
        account.counted_at = now
        if account.tokens < 1:
            raise RateLimitError(
                f"you made your {self._per_minute} requests of this minute; slow down (the "
                "server's RATE_LIMIT_PER_MINUTE sets the limit)",
                retry_after_s=(1 - account.tokens) * 60 / self._per_minute,
            )
        account.tokens -= 1


def network_of(address: str) -> str:
    """Give what a client's address is counted as: itself, or the /64 that an IPv6 one is in."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a name, or the path of a socket
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))
