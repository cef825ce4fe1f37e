"""Which replica a voice belongs to: rendezvous hashing with a bound on the load.

No state is kept and none is shared: whoever knows the replicas' names gives the same answer, so any
number of API processes agree. When a replica comes or goes, only the voices that it wins or had
move (Thaler and Ravishankar, 1998); the bound keeps one popular voice from drowning its replica
(Mirrokni, Thorup and Zadimoghaddam, 2018).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOAD_FACTOR = 1.25
"""A replica is left out for a voice that belongs to it when it has so many times the mean load."""


def preference(voice: str, replicas: Iterable[str]) -> list[str]:
    """Give the replicas in the order in which a voice wants them."""
    return sorted(replicas, key=lambda replica: _score(voice, replica), reverse=True)


def choose(voice: str, loads: Mapping[str, int], num_free: int) -> str | None:
    """Choose the replica for a voice.

    Args:
        voice: Names it; the empty name belongs nowhere.
        loads: Streams of every replica now.
        num_free: Streams that a replica always takes, however idle the others are.

    Returns:
        The first replica in the voice's order that has room below the bound; None when any will do.
    """
    if not voice or not loads:
        return None
    mean = (sum(loads.values()) + 1) / len(loads)
    bound = max(num_free, math.ceil(LOAD_FACTOR * mean))
    return next((name for name in preference(voice, loads) if loads[name] < bound), None)


def _score(voice: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{voice}\0{replica}".encode(), digest_size=8).digest()
