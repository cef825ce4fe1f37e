"""What a new request can expect: its first sound, whether it fits, how long it may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.errors import OverloadedError
from backend.serving.policy import FILE_STEP_S

if TYPE_CHECKING:
    from collections.abc import Collection

    from backend.core.types import SynthesisRequest
    from backend.serving.cost_model import CostModel
    from backend.serving.limits import SchedulerLimits
    from backend.serving.sequence import Sequence

MAX_SHARE = 0.6
"""Of the time, that all streams may take, their prompts included. On two CPU cores, shared with the
listeners, gaps grew from 0.4 to 1.4 and 2.5 s in 35 answers at 0.7 and 0.8, for no more speech."""

SHORTEST_TURN_S = 2.0
"""A listener asks again after this time at the earliest, however short the speech."""

MIN_SPARE = 0.05
"""Of the time, that is assumed to be left for prefills even when nothing is."""

TIMEOUT_FLOOR_S = 30.0
"""An adaptive limit is never shorter."""

TIMEOUT_FACTOR = 4.0
"""An adaptive limit is so many times what was expected, on top of the floor."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a request that comes now.

    Attributes:
        ttfa_s: From submission to the first sound.
        total_s: From submission to the end.
        share: Of the time, that it and all present listeners would take: to be supplied, and to
            have a prompt read as often as they have heard their speech to its end.
        retry_after_s: Until a present stream ends, as far as one can tell.
        is_idle: Whether nobody else is there.
    """

    ttfa_s: float
    total_s: float
    share: float
    retry_after_s: float
    is_idle: bool


def estimate_frames(request: SynthesisRequest, cost: CostModel) -> int:
    """Guess how many frames a request becomes."""
    if request.codes is not None:
        return request.codes.shape[1]
    guess = max(1, math.ceil(len(request.text) * cost.frames_per_char))
    return min(guess, request.sampling.max_new_tokens or guess)


def forecast(
    sequence: Sequence,
    waiting: Collection[Sequence],
    running: Collection[Sequence],
    cost: CostModel,
    max_slots: int,
) -> Forecast:
    """Expect what becomes of ``sequence`` behind ``waiting`` and ``running``."""
    present = [s for s in (*running, *waiting) if s.playback is not None]
    streams = len(present)
    supply_s = cost.sustained_s(max(1, min(streams, max_slots)))
    spare = max(MIN_SPARE, 1 - supply_s / cost.frame_s) if streams else 1.0
    ahead = [s for s in waiting if s.due_at <= sequence.due_at]
    prefill_s = sum(_prefill_s(s, cost) for s in [*ahead, sequence]) / spare
    rows = min(len(running) + len(ahead) + 1, max_slots)
    round_s = cost.round_s(rows)
    lasting_s = sorted(s.num_left * round_s for s in running)
    num_behind = len(running) + len(ahead) + 1 - max_slots
    slot_s = _slot_wait_s(lasting_s, [s.num_expected * round_s for s in ahead], num_behind)
    ttfa_s = slot_s + prefill_s + (len(ahead) + 1) * round_s
    # one that stands back for others goes on at the pace of its listener, a file slower still
    pace_s = FILE_STEP_S if sequence.playback is None else cost.frame_s
    return Forecast(
        ttfa_s=ttfa_s,
        total_s=ttfa_s + sequence.num_expected * max(pace_s, cost.round_s(max_slots)),
        share=cost.sustained_s(streams + 1) / cost.frame_s
        + sum(_prompt_share(s, cost) for s in (*present, sequence)),
        retry_after_s=lasting_s[0] if lasting_s else 0.0,
        is_idle=not waiting and not running,
    )


def refusal(expected: Forecast, limits: SchedulerLimits) -> OverloadedError | None:
    """Give the error for a new stream that would not be served well, or None.

    An idle engine refuses nobody: there is nobody to protect, and only work corrects a forecast.
    """
    if expected.is_idle:
        return None
    if expected.share > MAX_SHARE:
        reason = "one more stream would make those that are being heard run dry"
    elif 0 < limits.max_ttfa_s < expected.ttfa_s:
        reason = (
            f"the first sound would take about {expected.ttfa_s:.1f} s, and MAX_TTFA_S allows "
            f"{limits.max_ttfa_s:g} s"
        )
    else:
        return None
    return OverloadedError(
        f"{reason}; try again in a moment",
        retry_after_s=max(1.0, expected.retry_after_s),
        predicted_ttfa_s=expected.ttfa_s,
    )


def time_limit_s(expected: Forecast, limits: SchedulerLimits) -> float:
    """Seconds after which a request is given up, time in which its listener pauses it left out."""
    return limits.request_timeout_s or TIMEOUT_FLOOR_S + TIMEOUT_FACTOR * expected.total_s


def _prefill_s(sequence: Sequence, cost: CostModel) -> float:
    return cost.prefill.predict(sequence.num_positions) if sequence.request.codes is None else 0.0


def _prompt_share(sequence: Sequence, cost: CostModel) -> float:
    """Share of the time for prompts like this one's, if its listener goes on asking."""
    return _prefill_s(sequence, cost) / max(SHORTEST_TURN_S, sequence.num_expected * cost.frame_s)


def _slot_wait_s(lasting_s: list[float], queued_s: list[float], num_behind: int) -> float:
    """Seconds until ``num_behind`` slots have become free, those ahead having their turn first."""
    if num_behind <= 0 or not lasting_s:
        return 0.0
    free_at = list(lasting_s)
    waited_s = 0.0
    for idx in range(num_behind):
        waited_s = free_at.pop(0)
        taken_s = queued_s[idx] if idx < len(queued_s) else 0.0
        free_at.append(waited_s + taken_s)
        free_at.sort()
    return waited_s
