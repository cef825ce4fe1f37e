"""What the engine's stages cost, learnt while it works.

The figures decide whether a prefill fits into the listeners' buffers, so they lean to the dear
side: a dearer reading counts at once, a cheaper one slowly. The first readings of a size are
another matter: what is done for the first time pays for things that never come again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.core.contract import StageTiming

RISE = 0.3
"""Weight of a reading above the average."""

FALL = 0.05
"""Weight of a reading below it."""

MAX_JUMP = 4.0
"""A single reading counts as at most this many times the average: it may be a hiccup."""

NUM_FIRST = 4
"""So many readings of a size count as its first."""

COLD_FACTOR = 2.5
"""A first reading so many times as dear as one that follows was cold, and is forgotten. (Sizes that
share an average differ by less than 2.)"""

MAX_CODEC_FRAMES = 2.0
"""One codec call takes at most about so many frames' durations while streams are heard."""

FIRST_FRAMES = (1, 2, 4, 8)
"""Choices for a stream's first chunk."""

MAX_FIRST_SHARE = 0.8
"""Making as many frames again takes at most this share of the time that a first chunk lasts."""

GUESSED_FRAMES_PER_CHAR = 1.5
"""Until measured: people speak about 15 characters a second, the codec has about 21 frames."""


class CostCurve:
    """Seconds of one stage by the size of its input: one average for each power of two."""

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}
        self._counts: Counter[int] = Counter()
        self._sizes: list[float] = []
        self._costs: list[float] = []

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._sizes)

    def observe(self, size: int, seconds: float) -> None:
        """Take a measurement of an input of ``size`` > 0."""
        bucket = size.bit_length()
        self._counts[bucket] += 1
        if bucket not in self._points:
            expected_s = self.predict(size)
            likely_s = min(seconds, MAX_JUMP * expected_s) if expected_s > 0 else seconds
            self._points[bucket] = (float(size), likely_s)
        else:
            mean_size, mean_s = self._points[bucket]
            reading = min(seconds, MAX_JUMP * mean_s)
            weight = RISE if reading > mean_s else FALL
            if COLD_FACTOR * reading <= mean_s and self._counts[bucket] <= NUM_FIRST:
                weight = 1.0
            mean_size += weight * (size - mean_size)
            self._points[bucket] = (mean_size, mean_s + weight * (reading - mean_s))
        points = sorted(self._points.values())
        self._sizes = [mean_size for mean_size, _ in points]
        self._costs = [mean_s for _, mean_s in points]

    def predict(self, size: float) -> float:
        """Expect seconds for an input of ``size``; 0 while nothing is known.

        Between measured sizes the cost is interpolated; below the smallest it is the smallest's,
        above the largest it grows as between the last two, or in proportion if there is one.
        """
        sizes, costs = self._sizes, self._costs
        if not sizes or size <= 0:
            return 0.0
        idx = bisect_left(sizes, size)
        if idx == 0:
            return costs[0]
        if idx == len(sizes):
            if idx == 1:
                return costs[0] * size / sizes[0]
            idx -= 1
        slope = (costs[idx] - costs[idx - 1]) / (sizes[idx] - sizes[idx - 1])
        if size > sizes[-1]:
            return costs[-1] + max(0.0, slope) * (size - sizes[-1])
        return costs[idx - 1] + slope * (size - sizes[idx - 1])

    def least_rate(self, max_cost_s: float) -> float:
        """Seconds per unit at the size where a unit is cheapest; 0 while nothing is known.

        Sizes that cost more than ``max_cost_s`` are left out, the smallest excepted: what is never
        used is never measured again, and its figure is that of the idle machine at the start.
        """
        pairs = zip(self._costs, self._sizes, strict=True)
        rates = [cost / size for idx, (cost, size) in enumerate(pairs)
                 if idx == 0 or cost <= max_cost_s]  # fmt: skip
        return min(rates, default=0.0)


class CostModel:
    """The stages of one engine.

    Args:
        frame_s: Seconds of sound in a frame.
        timings: What the engine's warm-up took.

    Attributes:
        frame_s: Seconds of sound in a frame.
        prefill: By positions of the prompt.
        step: By rows of the batch.
        codec: By frames in one call, all rows together.
        frames_per_char: Frames that a character of text becomes.
    """

    def __init__(self, frame_s: float, timings: Iterable[StageTiming] = ()) -> None:
        self.frame_s = frame_s
        self.prefill = CostCurve()
        self.step = CostCurve()
        self.codec = CostCurve()
        self.frames_per_char = GUESSED_FRAMES_PER_CHAR
        curves = {"prefill": self.prefill, "decode_step": self.step, "decode_frames": self.codec}
        for timing in timings:
            curves[timing.stage].observe(timing.size, timing.seconds)

    def round_s(self, rows: int) -> float:
        """Expect seconds for one frame of each of ``rows``, drawn and decoded."""
        return self.step.predict(rows) + self.codec.predict(rows)

    def sustained_s(self, rows: int) -> float:
        """Expect seconds for one frame of each of ``rows`` once chunks are large."""
        rate_s = self.codec.least_rate(MAX_CODEC_FRAMES * self.frame_s)
        return self.step.predict(rows) + rows * rate_s

    def first_frames(self, rows: int) -> int:
        """Give the size of a stream's first chunk among ``rows`` streams.

        It is the smallest that lasts until as many frames again are made and decoded for all: 1 on
        a fast machine, more where single frames are dear.
        """
        for num_frames in FIRST_FRAMES:
            needed_s = num_frames * self.step.predict(rows) + self.codec.predict(num_frames * rows)
            if needed_s <= MAX_FIRST_SHARE * num_frames * self.frame_s:
                return num_frames
        return FIRST_FRAMES[-1]

    def note_spoken(self, num_chars: int, num_frames: int) -> None:
        """Learn from a text that was spoken to its end."""
        if num_chars > 0:
            self.frames_per_char += 0.1 * (num_frames / num_chars - self.frames_per_char)
