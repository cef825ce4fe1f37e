"""The host's side of the decode step: which slots go together, how far they may go, what came out.

A row must have the same bits in every batch. Matrix products do not grant that for every number of
rows (other numbers take other code paths), so batches are filled up to sizes of which it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backend.core.contract import StepResult
from backend.core.errors import GenerationError
from backend.engine.attention import StepPlan
from backend.engine.sampling import has_cut, has_penalty

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from backend.engine.exchange import Exchange
    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotPool


class _Batch(NamedTuple):
    """Slots that go together."""

    slots: list[int]
    size: int
    plan: StepPlan


class _Ahead(NamedTuple):
    """What the next step takes, if it is for these slots and nobody takes or frees one before."""

    slots: tuple[int, ...]
    num_changes: int
    batches: list[_Batch]


@dataclass(slots=True)
class Stepper:
    """Steps slots in batches.

    A card waits while the host looks at limits and lengths before a step. So that is done for the
    next step of the same slots while this one is on its way.

    Attributes:
        run: ``FrameDecoder.step``, or a replay of it.
        pool: What the host knows of the slots.
        store: Their keys and values.
        exchange: The way to the device.
        num_codebooks: ``K``.
        num_semantic: Code that means the end.
        batch_sizes: Sizes that batches are filled up to, rising; larger ones are split.
        bound_of: Rounds the longest length of a batch up to the bound its attention runs over.
        knows_rows: Whether ``run`` is told each row's length and what kind of draws there are.
            Steps of a card find both on the card.
    """

    run: Callable[[Tensor, StepPlan], Tensor]
    pool: SlotPool
    store: KVStore
    exchange: Exchange
    num_codebooks: int
    num_semantic: int
    batch_sizes: tuple[int, ...]
    bound_of: Callable[[int], int] = int
    knows_rows: bool = True
    _ahead: _Ahead | None = field(default=None, init=False)

    def step(self, slots: Sequence[int]) -> list[StepResult]:
        """Make one frame for each of ``slots``, in their order.

        Raises:
            GenerationError: A slot was opened without a prompt.
        """
        batches, self._ahead = self._batches_for(slots), None
        made: list[StepResult] = []
        for batch in batches:
            frames, results = self._begin(batch)
            if batch is batches[-1]:
                self._look_ahead(slots)
            made += self._collect(batch, frames, results)
        if len(made) == len(slots):
            return made
        by_slot = {result.slot: result for result in made}
        return [by_slot.get(slot) or StepResult(slot, None, hit_limit=True) for slot in slots]

    def _batches_for(self, slots: Sequence[int]) -> list[_Batch]:
        """Batches of those of ``slots`` that no limit has ended, as found ahead or anew."""
        ahead = self._ahead
        if ahead is None or ahead.num_changes != self.pool.num_changes:
            return self._batches(slots)
        return ahead.batches if ahead.slots == tuple(slots) else self._batches(slots)

    def _look_ahead(self, slots: Sequence[int]) -> None:
        """Find out what the next step of ``slots`` takes, if no sequence ends in this one."""
        self._ahead = _Ahead(tuple(slots), self.pool.num_changes, self._batches(slots))

    def _batches(self, slots: Sequence[int]) -> list[_Batch]:
        able, lengths = self._able(slots)
        most = self.batch_sizes[-1]
        return [
            self._batch(able[start : start + most], lengths[start : start + most])
            for start in range(0, len(able), most)
        ]

    def _able(self, slots: Sequence[int]) -> tuple[list[int], list[int]]:
        """Give those of ``slots`` that no limit has ended, and their lengths."""
        able: list[int] = []
        lengths: list[int] = []
        # the pending row needs a position of its own
        most_positions = self.store.max_positions - 2
        for slot_idx in slots:
            slot, length = self.pool[slot_idx], self.store.length(slot_idx)
            if slot.sampling is None:
                raise GenerationError(f"slot {slot_idx} was opened without a prompt")
            limit = slot.sampling.max_new_tokens
            if length <= most_positions and not (limit and slot.num_frames >= limit):
                able.append(slot_idx)
                lengths.append(length)
        return able, lengths

    def _batch(self, slots: list[int], lengths: list[int]) -> _Batch:
        size = next(size for size in self.batch_sizes if size >= len(slots))
        return _Batch(slots, size, self._plan(slots, lengths))

    def _begin(self, batch: _Batch) -> tuple[NDArray[np.int32], list[StepResult]]:
        """Start a step; every frame is taken for one that does not end."""
        slots = batch.slots
        padded = slots + [self.store.scratch_slot] * (batch.size - len(slots))
        self.exchange.send(self.run(self.exchange.slot_ids(padded), batch.plan))
        # while a card works
        frames = np.empty((len(slots), self.num_codebooks), dtype=np.int32)
        results = [StepResult(slot, codes) for slot, codes in zip(slots, frames, strict=True)]
        self._count(slots, 1)
        return frames, results

    def _collect(
        self, batch: _Batch, frames: NDArray[np.int32], results: list[StepResult]
    ) -> list[StepResult]:
        """Wait for the frames of a step that was begun."""
        self.exchange.receive(frames)
        for row in (frames[:, 0] == self.num_semantic).nonzero()[0].tolist():
            slot = batch.slots[row]
            self._count([slot], -1)
            results[row] = StepResult(slot, None)
            self._ahead = None
        return results

    def _count(self, slots: list[int], num_frames: int) -> None:
        for slot in slots:
            self.store.count_on_host(slot, num_frames)
            self.pool[slot].num_frames += num_frames

    def _plan(self, slots: list[int], lengths: list[int]) -> StepPlan:
        bound = self.bound_of(max(lengths) + 1)
        if not self.knows_rows:
            return StepPlan(len(slots), bound)
        params = [self.pool[slot].sampling for slot in slots]
        return StepPlan(
            num_rows=len(slots),
            length_bound=bound,
            has_cut=any(p is not None and has_cut(p) for p in params),
            has_penalty=any(p is not None and has_penalty(p) for p in params),
            rows=tuple(zip(slots, lengths, strict=True)),
        )
