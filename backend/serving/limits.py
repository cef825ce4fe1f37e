"""What the settings say about scheduling, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from backend.core.settings import Settings


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """How the scheduler orders work and what it refuses.

    Attributes:
        scheduling: ``deadline`` keeps listeners' buffers filled; ``fifo`` takes everything in turn.
        admission: Whether a stream that the engine cannot keep up with waits or is refused.
        max_ttfa_s: With ``refuse``: longest predicted time to first sound; 0 sets no limit.
        request_timeout_s: Longest time for one stretch of text; 0 derives it from measured speed.
    """

    scheduling: Literal["deadline", "fifo"] = "deadline"
    admission: Literal["queue", "refuse"] = "queue"
    max_ttfa_s: float = 0.0
    request_timeout_s: float = 0.0

    @classmethod
    def from_settings(cls, settings: Settings) -> SchedulerLimits:
        """Take what concerns the scheduler."""
        return cls(
            scheduling=settings.scheduling,
            admission=settings.admission,
            max_ttfa_s=settings.max_ttfa_s,
            request_timeout_s=settings.request_timeout_s,
        )
