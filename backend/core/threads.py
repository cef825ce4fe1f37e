"""How the threads of a process share the interpreter."""

from __future__ import annotations

import sys

SWITCH_INTERVAL_S = 0.0005
"""A thread that wants to run waits so long for one that does. Python's own 5 ms is a tenth of a
frame, and a burst pays it for every message: its reader gets one in, and stands back again."""


def share_interpreter() -> None:
    """Let threads that carry messages run soon although another computes. Once, at the start."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
