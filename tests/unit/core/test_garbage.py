"""What a process has imported is left out of later collections."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc, weakref
from backend.core.garbage import keep_for_good

class Node: pass

garbage, kept = Node(), [[] for _ in range(1000)]
garbage.itself = garbage
gone = weakref.ref(garbage)
del garbage
keep_for_good()
assert gone() is None
assert gc.get_freeze_count() > 1000
assert len(gc.get_objects()) < 1000
print("settled")
"""


def test_everything_that_is_there_is_kept_and_garbage_is_not():
    # in a process of its own: what this one holds must still be collected
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.stdout == "settled\n", done.stderr
