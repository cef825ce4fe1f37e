"""The last N values of a quantity, and what can be said about them."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowSummary:
    """What the last values look like. Everything but ``count`` is None while there are none.

    Attributes:
        count: Values in the window.
        last: The newest one.
        avg: Arithmetic mean.
        min: Smallest.
        max: Largest.
        p50: Median.
        p95: 95 of 100 values are at most this.
    """

    count: int
    last: float | None = None
    avg: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p95: float | None = None


class RollingWindow:
    """Keep the last values. Any thread may call anything at any time.

    Args:
        max_values: Older values than this many are forgotten.
    """

    def __init__(self, max_values: int) -> None:
        if max_values < 1:
            raise ValueError(f"max_values must be at least 1, got {max_values}")
        self._lock = threading.Lock()
        self._values: deque[float] = deque(maxlen=max_values)

    def add(self, value: float) -> None:
        """Take the next value.

        Raises:
            ValueError: It is NaN or infinite, which would spoil every figure after it.
        """
        if not math.isfinite(value):
            raise ValueError(f"a measured value must be finite, got {value}")
        with self._lock:
            self._values.append(value)

    def summary(self) -> WindowSummary:
        """Say what the values look like now."""
        with self._lock:
            values = list(self._values)
        if not values:
            return WindowSummary(count=0)
        ordered = sorted(values)
        return WindowSummary(
            count=len(values),
            last=values[-1],
            avg=math.fsum(values) / len(values),
            min=ordered[0],
            max=ordered[-1],
            p50=_quantile(ordered, 0.50),
            p95=_quantile(ordered, 0.95),
        )


def _quantile(ordered: list[float], share: float) -> float:
    """Interpolate between the two nearest ranks, as ``numpy.percentile`` does by default."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
