"""What the garbage collector need not look at again.

PyTorch, Triton and a web framework are a quarter of a million objects. The collector goes through
them all whenever enough new ones have come, which holds the interpreter for 0.2 s: with many
listeners, that is a gap in somebody's speech.
"""

from __future__ import annotations

import gc


def keep_for_good() -> None:
    """Collect once, and take what is left for what stays. For a process of our own, once ready."""
    gc.collect()
    gc.freeze()
