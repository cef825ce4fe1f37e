"""Keys and values of prompts' beginnings, so that a known voice prefills only its text.

A prompt is prefilled turn by turn, and each turn's keys and values are kept under everything that
the prompt holds up to its end. A prompt that begins the same finds them, turn after turn; nothing
is stored twice. The turns are cut in the same places whether they are found or not, so what is
spoken from the cache has the bits of what is spoken without it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.types import CacheCounters
from backend.engine.prefill import check_prompt_length
from backend.engine.prompts import Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from backend.engine.kv_store import SlotKV

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


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and where it goes.

    Attributes:
        rows: ``[1 + K, T]`` int64 on the CPU, T >= 1.
        turn_ends: Rising positions behind each turn, below T.
        kv: An empty slot.
    """

    rows: Tensor
    turn_ends: Sequence[int]
    kv: SlotKV


def prefill_with_prefixes(
    run_many: Callable[[Sequence[Stretch]], None], prompts: Sequence[Prompt], cache: PrefixCache
) -> None:
    """Fill slots with prompts, all but their last rows; known turns are copied.

    Args:
        run_many: Runs stretches of different slots, each behind what its slot holds.
        prompts: Of different slots.
        cache: Of this model.

    Raises:
        PromptTooLongError: A prompt leaves too little room for speech; nothing was run.
    """
    for prompt in prompts:
        check_prompt_length(prompt.rows.shape[1], prompt.kv.max_positions)
    digests = [hashlib.sha256() for _ in prompts]
    for turn_idx in range(max((len(prompt.turn_ends) for prompt in prompts), default=0)):
        unknown: list[tuple[Stretch, int, bytes]] = []
        for prompt, digest in zip(prompts, digests, strict=True):
            if turn_idx >= len(prompt.turn_ends):
                continue
            kv, start = prompt.kv, prompt.kv.length
            turn = prompt.rows[:, start : prompt.turn_ends[turn_idx]].contiguous()
            digest.update(turn.shape[1].to_bytes(8, "little") + turn.numpy().tobytes())
            key = digest.copy().digest()
            known = cache.get(key)
            if known is None:
                unknown.append((Stretch(turn, kv), start, key))
            else:
                _copy(known, kv, start, start + turn.shape[1])
        run_many([stretch for stretch, _, _ in unknown])
        for (_, kv), start, key in unknown:
            cache.put(key, kv.stretch(start, kv.length))
    run_many([Stretch(prompt.rows[:, prompt.kv.length : -1], prompt.kv) for prompt in prompts])


def _copy(known: tuple[Tensor, ...], kv: SlotKV, start: int, end: int) -> None:
    for part, kept in zip(kv.stretch(start, end), known, strict=True):
        part.copy_(kept)
    kv.advance(end - start)


def _num_bytes(kv: tuple[Tensor, ...]) -> int:
    return sum(part.numel() * part.element_size() for part in kv)
