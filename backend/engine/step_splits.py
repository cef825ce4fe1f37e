"""How the slow attention of a decode step is cut up among programs."""

from __future__ import annotations

import math

MOST_KEYS_AT_ONCE = 64
"""Positions a program of the slow attention reads ahead."""
FEWER_KEYS_AT_ONCE = 32
"""The same where there are more than ``PROGRAMS_WANTED``: twice as many programs have room on the
card at a time, 2.3 instead of 2.5 ms a step of 64 rows; 32 rows take longer."""
PROGRAMS_WANTED = 256
"""Programs above which a split grows instead, up to ``FEW_POSITIONS``: best on an H200 with 8 to
128 rows of 300 positions. Joining splits costs a kernel."""
FEW_POSITIONS = 512
"""Positions that a program may go through while others wait: a long row among short ones."""
MOST_PROGRAMS = 2048
"""Programs above which a split grows beyond ``FEW_POSITIONS``."""


def keys_at_once(units: int) -> int:
    """Positions a program reads at a time.

    Args:
        units: Rows times key/value heads.
    """
    return FEWER_KEYS_AT_ONCE if units > PROGRAMS_WANTED else MOST_KEYS_AT_ONCE


def attention_splits(units: int, max_length: int) -> tuple[int, int]:
    """Positions of a split and how many splits: enough programs to fill the card, no more.

    Args:
        units: Rows times key/value heads.
        max_length: Positions that a row may have.
    """
    length = MOST_KEYS_AT_ONCE
    while length < max_length:
        programs = units * math.ceil(max_length / length)
        most = PROGRAMS_WANTED if length < FEW_POSITIONS else MOST_PROGRAMS
        if programs <= most:
            break
        length *= 2
    return length, math.ceil(max_length / length)
