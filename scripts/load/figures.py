"""Many outcomes in a few figures."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scripts.load.listener import Outcome

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolate between the two nearest ranks, as ``numpy.percentile`` does by default.

    Args:
        values: At least one, in any order.
        percent: 0..100.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = percent / 100 * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """Give count, smallest, p50, p95, p99 and largest; None where there is no value."""
    known = list(values)
    figures: dict[str, float | int | None] = {"count": len(known)}
    figures["min"] = min(known, default=None)
    for percent in PERCENTILES:
        figures[f"p{percent}"] = percentile(known, percent) if known else None
    figures["max"] = max(known, default=None)
    return figures


def level_figures(num_streams: int, outcomes: Sequence[Outcome], wall_s: float) -> dict[str, Any]:
    """Give the figures of one level of load.

    Args:
        num_streams: Listeners at a time.
        outcomes: Of every request.
        wall_s: From the first request to the last byte.
    """
    heard = [outcome for outcome in outcomes if outcome.error is None]
    gaps_s = [gap_s for outcome in heard for gap_s in outcome.playback.gaps_s]
    audio_s = sum(outcome.playback.audio_s for outcome in outcomes)
    kinds = sorted({outcome.kind for outcome in heard})
    return {
        "streams": num_streams,
        "wall_s": wall_s,
        "requests": len(outcomes),
        "completed": len(heard),
        "errors": dict(Counter(outcome.error for outcome in outcomes if outcome.error)),
        "audio_s": audio_s,
        "audio_s_per_s": audio_s / wall_s if wall_s > 0 else None,
        "ttfa_s": spread(o.ttfa_s for o in heard if o.ttfa_s is not None),
        "ttfa_s_by_voice": {
            kind: spread(o.ttfa_s for o in heard if o.kind == kind and o.ttfa_s is not None)
            for kind in kinds
        },
        "underruns": len(gaps_s),
        "streams_with_underruns": sum(1 for outcome in heard if outcome.playback.underruns),
        "gap_s": sum(gaps_s),
        "gaps_s": spread(gaps_s),
    }
