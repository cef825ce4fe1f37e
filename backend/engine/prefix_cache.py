"""Keys and values of prompts' beginnings, so that a known voice prefills only its text.

A prompt is prefilled turn by turn, and each turn's keys and values are kept under everything that
the prompt holds up to its end. A prompt that begins the same finds them, turn after turn; nothing
is stored twice. The turns are cut in the same places whether they are found or not, so what is
spoken from the cache has the bits of what is spoken without it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from backend.core.types import CacheCounters
from backend.engine.prefill import check_prompt_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from backend.engine.kv_store import SlotKV
    from backend.engine.prefill_graphs import Prefill

BYTES_PER_MIB = 1 << 20


class PrefixCache:
    """Keys and values of turns, the least recently used going first. Confined to one thread.

    An entry larger than the whole budget is not kept; a budget of 0 keeps nothing.

    Args:
        budget_bytes: Most memory of all entries, on the model's device.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self._size_bytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        """Give what ``put`` kept and mark it as used, or None; either is counted."""
        found = self._entries.get(key)
        if found is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, kv: tuple[Tensor, ...]) -> None:
        """Keep a copy of ``kv``, see ``SlotKV.stretch``."""
        num_bytes = _num_bytes(kv)
        if num_bytes > self._budget_bytes or key in self._entries:
            return
        while self._size_bytes + num_bytes > self._budget_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._size_bytes -= _num_bytes(dropped)
            self._evictions += 1
        self._entries[key] = tuple(part.clone() for part in kv)
        self._size_bytes += num_bytes

    def clear(self) -> int:
        """Drop everything and give the number of entries that were there; counters stay."""
        count = len(self._entries)
        self._entries.clear()
        self._size_bytes = 0
        return count

    def reset(self) -> None:
        """Drop everything, and count from 0."""
        self.clear()
        self._hits = self._misses = self._evictions = 0

    @property
    def counters(self) -> CacheCounters:
        """What the cache holds and has done."""
        return CacheCounters(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            entries=len(self._entries),
            size_bytes=self._size_bytes,
            budget_bytes=self._budget_bytes,
        )


def prefill_with_prefixes(
    run: Prefill, rows: Tensor, turn_ends: Sequence[int], kv: SlotKV, cache: PrefixCache
) -> Tensor:
    """Fill an empty slot with a prompt, all but its last row; known turns are copied.

    Args:
        run: Runs rows behind what a slot holds.
        rows: ``[1 + K, T]`` int64 on the CPU.
        turn_ends: Rising positions behind each turn, below T.
        kv: Empty.
        cache: Of this model.

    Returns:
        ``[1 + K]``, the last row, for the first decode step.

    Raises:
        PromptTooLongError: The prompt leaves too little room for speech.
    """
    check_prompt_length(rows.shape[1], kv.max_positions)
    digest = hashlib.sha256()
    for end in turn_ends:
        turn = rows[:, kv.length : end].contiguous()
        digest.update(turn.shape[1].to_bytes(8, "little") + turn.numpy().tobytes())
        _prefill_turn(run, turn, kv, cache, digest.copy().digest())
    run(rows[:, kv.length : -1], kv)
    return rows[:, -1]


def _prefill_turn(run: Prefill, turn: Tensor, kv: SlotKV, cache: PrefixCache, key: bytes) -> None:
    start, end = kv.length, kv.length + turn.shape[1]
    known = cache.get(key)
    if known is None:
        run(turn, kv)
        cache.put(key, kv.stretch(start, end))
    else:
        for part, kept in zip(kv.stretch(start, end), known, strict=True):
            part.copy_(kept)
        kv.advance(end - start)


def _num_bytes(kv: tuple[Tensor, ...]) -> int:
    return sum(part.numel() * part.element_size() for part in kv)
