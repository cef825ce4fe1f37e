"""How soon a dead engine is started again, and how long a silent one is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.core.settings import Settings

MAX_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Times in seconds.

    Attributes:
        hang_timeout_s: An engine with work that says nothing for so long is killed.
        load_timeout_s: An engine that is not ready after so long is killed.
        first_delay_s: Before the first restart; doubled for each further one.
        max_delay_s: Never wait longer.
        steady_after_s: An engine that served for so long counts as healthy: what follows is a
            first restart again.
        max_first_starts: Tries to get the first engine; without one there is nothing to wait for.
    """

    hang_timeout_s: float = 300.0
    load_timeout_s: float = 1800.0
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    steady_after_s: float = 60.0
    max_first_starts: int = 3

    @classmethod
    def of(cls, settings: Settings) -> RestartPolicy:
        """Take what the settings say."""
        return cls(settings.engine_hang_timeout_s, settings.engine_load_timeout_s)

    @property
    def tick_s(self) -> float:
        """How often to look."""
        return min(MAX_TICK_S, self.hang_timeout_s / 4)


class Backoff:
    """Longer and longer delays."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._next_s = policy.first_delay_s

    def next_s(self, served_s: float | None) -> float:
        """Give the delay after an engine that served for ``served_s``, or never (None)."""
        if served_s is not None and served_s >= self._policy.steady_after_s:
            self._next_s = self._policy.first_delay_s
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._policy.max_delay_s)
        return delay_s
