"""Who goes first: the decisions of one round, as functions of its state.

Two policies. ``FifoPolicy`` takes everything in turn. ``DeadlinePolicy`` looks at what each
listener still has to play: the one that would run dry first goes first, and prefills start only
when everybody's buffer outlasts them. Whole files have no listener in that sense: they fill what
time is left, and a little more so that they never stand still.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from backend.serving.cost_model import MAX_CODEC_FRAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from backend.serving.cost_model import CostModel
    from backend.serving.sequence import Sequence

MARGIN_FRAMES = 0.5
"""Share of a frame's duration kept in reserve for what predictions miss."""

AHEAD_S = 3.0
"""A stream whose listener has more than this can stand back for others."""

COMFORT_S = 1.0
"""A stream whose listener has less than this is one that others stand back for."""

WORTH_IT = 0.9
"""Rows stand back only if a step without them takes at most this share of the time."""

FAIR_ROW_COST = 1.5
"""A few rows are stepped alone only if each then costs at most this many times as much."""

MAX_BLOCKED_S = 2.0
"""Buffers that have not grown for so long will not: then one prefill starts all the same."""

MAX_WAIT_S = 10.0
"""Longest time for which growing buffers may be waited for."""

CROWD_FRAMES = 6.0
"""Prompts that take at most so many frames' durations together are all read in one round."""

BURST_FRAMES = 3.0
"""Of more prompts a round takes those of so many frames' durations: who was admitted waits for
them, and those of one round need their next sound at the same time."""

FILE_STEP_S = 0.25
"""A whole file gets a step at least so often, whoever else is in need."""

FILE_CHUNK_S = 2.0
"""A whole file's chunk may wait for the codec so long."""

FILE_ADMISSION_S = 5.0
"""A whole file that has waited so long for a slot goes before streams that come now."""

LOOK_AHEAD = 8
"""So many of the waiting are tried when the first one's prefill does not fit."""


class Policy(Protocol):
    """The decisions of one round."""

    def due_at(self, sequence: Sequence) -> float:
        """Clock reading by which a new sequence should be admitted."""
        ...

    def pick_waiting(
        self, waiting: list[Sequence], running: Collection[Sequence], now: float, num_free: int
    ) -> list[Sequence]:
        """Choose who is admitted now, at most ``num_free``. ``waiting`` is sorted."""
        ...

    def pick_rows(
        self, running: Iterable[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose who draws a frame. ``waiting`` is empty when no slot is free."""
        ...

    def pick_chunks(
        self, running: Collection[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose whose frames become sound. ``waiting`` is empty when no slot is free."""
        ...


class FifoPolicy:
    """Everything in turn: the oldest is admitted, all draw, all that is due is decoded."""

    def due_at(self, sequence: Sequence) -> float:
        """Give the time of submission."""
        return sequence.submitted_at

    def pick_waiting(
        self, waiting: list[Sequence], running: Collection[Sequence], now: float, num_free: int
    ) -> list[Sequence]:
        """Choose the oldest."""
        return waiting[: min(1, num_free)]

    def pick_rows(
        self, running: Iterable[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose all that can draw."""
        return [sequence for sequence in running if sequence.can_step]

    def pick_chunks(
        self, running: Collection[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose all that are due."""
        return [sequence for sequence in running if sequence.has_chunk_due]


class DeadlinePolicy:
    """Listeners' buffers first.

    Args:
        cost: Learnt by the scheduler.
        reads_together: Whether prompts of one round are run in one call.
    """

    def __init__(self, cost: CostModel, *, reads_together: bool = False) -> None:
        self._cost = cost
        self._reads_together = reads_together
        self._margin_s = MARGIN_FRAMES * cost.frame_s
        self._growth = _Growth()

    def due_at(self, sequence: Sequence) -> float:
        """Give now for a new stream, the end of its buffer for one that goes on, later for a file.

        One key for all kinds is what keeps any of them from starving.
        """
        if sequence.playback is None:
            return sequence.submitted_at + FILE_ADMISSION_S
        ready_s = self._cost.prefill.predict(sequence.num_positions) + COMFORT_S / 2
        buffered_s = sequence.playback.buffer_s(sequence.submitted_at)
        return sequence.submitted_at + max(0.0, buffered_s - ready_s)

    def pick_waiting(
        self, waiting: list[Sequence], running: Collection[Sequence], now: float, num_free: int
    ) -> list[Sequence]:
        """Choose those whose prefills, together, end before anybody runs dry.

        When none does and the buffers do not grow any more, the first goes all the same.
        """
        if not waiting or num_free <= 0:
            return []
        buffer_s = smallest_buffer_s(running, now)
        chosen = self._fitting_prompts(waiting, len(running), buffer_s, num_free)
        if not chosen and self._growth.has_stopped(buffer_s, now):
            chosen = waiting[:1]
        if chosen:
            self._growth = _Growth()
        return chosen

    def _fitting_prompts(
        self, waiting: list[Sequence], num_running: int, buffer_s: float, num_free: int
    ) -> list[Sequence]:
        """Take one that fits and, if all are short, as many as the buffers and a burst bear."""
        crowd_s = self._reading_s(waiting[:num_free])
        is_quick = crowd_s <= CROWD_FRAMES * self._cost.frame_s
        burst_s = (CROWD_FRAMES if is_quick else BURST_FRAMES) * self._cost.frame_s
        chosen: list[Sequence] = []
        num_skipped = 0
        for sequence in waiting:
            reading_s = self._reading_s([*chosen, sequence])
            round_s = self._cost.round_s(num_running + len(chosen) + 1)
            # those of a burst run dry all at once, so their second chunks must fit in as well
            needed_s = reading_s + (2 if chosen else 1) * round_s + self._margin_s
            is_short = self._prefill_s(sequence) <= self._cost.frame_s and reading_s <= burst_s
            can_follow = is_short and self._cost.prefill.is_known
            if needed_s <= buffer_s and (can_follow or not chosen):
                chosen.append(sequence)
            else:
                num_skipped += 1
            if len(chosen) == num_free or num_skipped == LOOK_AHEAD:
                break
        return chosen

    def pick_rows(
        self, running: Iterable[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose all, unless leaving some out for a round helps those in need."""
        rows = [sequence for sequence in running if sequence.can_step]
        if len(rows) < 2:
            return rows
        step = self._cost.step
        full_s = step.predict(len(rows))
        needy, urgent, is_contested = _in_need(rows, full_s + self._margin_s, now)
        if not is_contested and not waiting:
            return rows
        if 0 < len(urgent) < len(needy):
            # where a step of few costs as much as one of all, few alone would only waste it
            row_s = step.predict(len(urgent)) / len(urgent)
            if row_s <= FAIR_ROW_COST * full_s / len(rows):
                return urgent
        if 0 < len(needy) < len(rows) and step.predict(len(needy)) <= WORTH_IT * full_s:
            return needy
        return rows

    def pick_chunks(
        self, running: Collection[Sequence], waiting: list[Sequence], now: float
    ) -> list[Sequence]:
        """Choose what is due, the driest first, as much as fits before somebody runs dry.

        Whoever would run dry before the next round ends gets what there is, however little.
        """
        if not any(sequence.playback for sequence in running) and not waiting:
            return [sequence for sequence in running if sequence.has_chunk_due]
        cost, num_running = self._cost, len(running)
        urgent_at = now + cost.round_s(num_running) + self._margin_s
        # a prefill waits for buffers, so what is made goes out to fill them
        flush_at = max(urgent_at, now + self._longest_admission_s(waiting, running, now))
        due: list[tuple[float, Sequence]] = []
        early_at = flush_at + MAX_CODEC_FRAMES * cost.frame_s
        for sequence in running:
            playback = sequence.playback
            if sequence.has_chunk_due:
                if playback is None:
                    due.append((sequence.served_at + FILE_CHUNK_S, sequence))
                else:
                    due.append((now if playback.dry_at is None else playback.dry_at, sequence))
            elif (
                playback is not None
                and playback.dry_at is not None
                and playback.dry_at <= early_at
                and sequence.credit > 0
                and len(sequence.frames) >= sequence.least_frames
                and sequence.has_taken_all
            ):
                due.append((playback.dry_at, sequence))
        due.sort(key=itemgetter(0))
        limit_s = min(
            smallest_buffer_s(running, now) - cost.step.predict(num_running) - self._margin_s,
            MAX_CODEC_FRAMES * cost.frame_s,
        )
        can_wait = any(sequence.can_step for sequence in running)
        return self._fitting(due, urgent_at, flush_at, limit_s, can_wait=can_wait)

    def _fitting(
        self,
        due: list[tuple[float, Sequence]],
        urgent_at: float,
        flush_at: float,
        limit_s: float,
        *,
        can_wait: bool,
    ) -> list[Sequence]:
        """Take the urgent ones and then, in order, as many as the codec can do in ``limit_s``.

        At least one, unless there is other work: with ``can_wait`` a large one waits for its time.
        Many that run dry at once are decoded one after another, so the last is urgent the earliest.
        """
        predict = self._cost.codec.predict
        chosen: list[Sequence] = []
        total = ahead = 0
        for dry_at, sequence in due:
            num_frames = min(len(sequence.frames), sequence.chunk_frames)
            ahead += num_frames
            begin_at = dry_at - predict(ahead)
            if begin_at > flush_at and not sequence.has_chunk_due:
                continue
            is_urgent = begin_at <= urgent_at
            fits = predict(total + num_frames) <= limit_s
            if is_urgent or fits or not (chosen or can_wait):
                chosen.append(sequence)
                total += num_frames
        return chosen

    def _reading_s(self, sequences: list[Sequence]) -> float:
        """Expect how long the prompts of one round take."""
        if not self._reads_together:
            return sum(self._prefill_s(sequence) for sequence in sequences)
        num_positions = sum(s.num_positions for s in sequences if s.request.codes is None)
        return self._cost.prefill.predict(num_positions)

    def _prefill_s(self, sequence: Sequence) -> float:
        is_spoken = sequence.request.codes is None
        return self._cost.prefill.predict(sequence.num_positions) if is_spoken else 0.0

    def _admission_s(self, sequence: Sequence, num_running: int) -> float:
        """Expect how long the others get nothing if ``sequence`` is admitted."""
        return self._prefill_s(sequence) + self._cost.round_s(num_running + 1) + self._margin_s

    def _longest_admission_s(
        self, waiting: list[Sequence], running: Collection[Sequence], now: float
    ) -> float:
        """Give what the first of the waiting takes, if all that is made is enough for it."""
        if not waiting:
            return 0.0
        needed_s = self._admission_s(waiting[0], len(running))
        made_s = min(
            (
                sequence.playback.lead_s(now, sequence.num_made)
                for sequence in running
                if sequence.playback is not None and sequence.credit > 0
            ),
            default=0.0,
        )
        return needed_s if made_s >= needed_s else 0.0


class _Growth:
    """Whether the smallest of the listeners' buffers still grows while a prefill waits for it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._largest_s = float("-inf")
        self._grown_at = 0.0

    def has_stopped(self, buffer_s: float, now: float) -> bool:
        """Take the next reading; True means that waiting longer helps nobody."""
        if self._since is None:
            self._since = now
        if buffer_s > self._largest_s:
            self._largest_s, self._grown_at = buffer_s, now
        return now - self._grown_at >= MAX_BLOCKED_S or now - self._since >= MAX_WAIT_S


def _in_need(
    rows: Iterable[Sequence], urgent_s: float, now: float
) -> tuple[list[Sequence], list[Sequence], bool]:
    """Give the rows that should not stand back, those of them that cannot, and if any has little.

    A whole file belongs to both once it has stood still for ``FILE_STEP_S``.
    """
    needy: list[Sequence] = []
    urgent: list[Sequence] = []
    is_contested = False
    for sequence in rows:
        if sequence.playback is None:
            if now - sequence.served_at >= FILE_STEP_S:
                needy.append(sequence)
                urgent.append(sequence)
            continue
        lead_s = sequence.playback.lead_s(now, sequence.num_made)
        if lead_s < COMFORT_S:
            is_contested = True
        if lead_s <= AHEAD_S:
            needy.append(sequence)
        if lead_s <= urgent_s:
            urgent.append(sequence)
    return needy, urgent, is_contested


def smallest_buffer_s(running: Iterable[Sequence], now: float) -> float:
    """Seconds until the first of the listeners who keep up runs dry; infinite without any."""
    smallest = float("inf")
    for sequence in running:
        playback = sequence.playback
        if (
            playback is not None
            and playback.dry_at is not None
            and playback.dry_at < smallest
            and sequence.credit > 0
        ):
            smallest = playback.dry_at
    return smallest - now
