"""Silence before and after speech taken away; pauses inside stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENCE_PEAK = 10 ** (-50 / 20)
"""-50 dBFS: above it there is sound."""
MARGIN_S = 0.03
"""What stays on either side, so that no beginning is bitten off."""
LONGEST_HELD_S = 10.0
"""A pause longer than this passes, so that what is held back has a bound."""


class SilenceTrim:
    """Trim a stream. Joined, what comes out is the same however the samples are cut into chunks.

    Life: ``feed`` any number of times -> ``finish`` once. Silence inside is held back until sound
    follows it. A stream without any sound gives its last ``MARGIN_S``.

    Args:
        sample_rate: In Hz.

    Attributes:
        num_dropped: Samples taken away so far; complete after ``finish``.
    """

    def __init__(self, sample_rate: int) -> None:
        self._margin = round(MARGIN_S * sample_rate)
        self._longest_held = round(LONGEST_HELD_S * sample_rate)
        self._held = np.zeros(0, np.float32)
        self._has_begun = False
        self.num_dropped = 0

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take ``[S]`` float32 and give the samples that surely stay, possibly none."""
        held = np.concatenate([self._held, samples])
        loud = np.flatnonzero(np.abs(held) > SILENCE_PEAK)
        if loud.size == 0:
            self._held = held if self._has_begun else self._drop_front(held, held.size)
            return self._overflow()
        if not self._has_begun:
            self._has_begun = True
            first = int(loud[0])
            held, loud = self._drop_front(held, first), loud - max(0, first - self._margin)
        end = int(loud[-1]) + 1
        self._held = held[end:]
        return np.concatenate([held[:end], self._overflow()])

    def finish(self) -> NDArray[np.float32]:
        """Give what stays of the silence at the end."""
        rest, self._held = self._held, self._held[:0]
        kept = rest[: self._margin] if self._has_begun else rest
        self.num_dropped += rest.size - kept.size
        return kept

    def _drop_front(self, held: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        """Drop what comes before ``first``, all but the margin."""
        start = max(0, first - self._margin)
        self.num_dropped += start
        return held[start:]

    def _overflow(self) -> NDArray[np.float32]:
        surplus = max(0, self._held.size - self._longest_held)
        given, self._held = self._held[:surplus], self._held[surplus:]
        return given


def trim_silence(samples: NDArray[np.float32], sample_rate: int) -> tuple[NDArray[np.float32], int]:
    """Trim ``[S]`` float32 samples; also give how many were taken away."""
    trim = SilenceTrim(sample_rate)
    kept = np.concatenate([trim.feed(samples), trim.finish()])
    return kept, trim.num_dropped
