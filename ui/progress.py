"""How far a take has come, as well as one can know before its end."""

from __future__ import annotations

import re
import time

_LETTERS_PER_S = 15.0
_IDEOGRAPHS_PER_S = 5.0
_FIRST_IDEOGRAPH = 0x2E80
_MOST = 0.97
"""Only the end is the end."""


class Progress:
    """Estimate from the text how long it will sound.

    Args:
        text: What is said; markers in parentheses are not.
        speed: How much faster than usual.
    """

    def __init__(self, text: str, speed: float = 1.0) -> None:
        self._begun_at = time.monotonic()
        spoken = re.sub(r"\([^()]*\)", "", text)
        ideographs = sum(ord(char) >= _FIRST_IDEOGRAPH for char in spoken)
        letters = len(spoken) - ideographs
        seconds = letters / _LETTERS_PER_S + ideographs / _IDEOGRAPHS_PER_S
        self.expected_s = max(0.5, seconds / speed)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request."""
        return time.monotonic() - self._begun_at

    def fraction(self, spoken_s: float) -> float:
        """Give how much is done, 0..1, when so many seconds have come."""
        return min(_MOST, spoken_s / self.expected_s)
