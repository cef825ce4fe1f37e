"""The host's side of the decode step: which slots go together, how far they may go, what came out.

A row must have the same bits in every batch. Matrix products do not grant that for every number of
rows (other numbers take other code paths), so batches are filled up to sizes of which it is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.core.contract import StepResult
from backend.core.errors import GenerationError
from backend.engine.attention import StepPlan
from backend.engine.sampling import has_cut, has_penalty

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotPool


@dataclass(frozen=True, slots=True)
class Stepper:
    """Steps slots in batches.

    Attributes:
        run: ``FrameDecoder.step``, or a replay of it.
        pool: What the host knows of the slots.
        store: Their keys and values.
        num_semantic: Code that means the end.
        batch_sizes: Sizes that batches are filled up to, rising; larger ones are split.
        bound_of: Rounds the longest length of a batch up to the bound its attention runs over.
    """

    run: Callable[[Tensor, StepPlan], Tensor]
    pool: SlotPool
    store: KVStore
    num_semantic: int
    batch_sizes: tuple[int, ...]
    bound_of: Callable[[int], int] = int

    def step(self, slots: Sequence[int]) -> list[StepResult]:
        """Make one frame for each of ``slots``, in their order.

        Raises:
            GenerationError: A slot was opened without a prompt.
        """
        able = [slot for slot in slots if self._has_room(slot)]
        results: dict[int, StepResult] = {}
        most = self.batch_sizes[-1]
        for start in range(0, len(able), most):
            for result in self._step_batch(able[start : start + most]):
                results[result.slot] = result
        return [results.get(slot, StepResult(slot, None, hit_limit=True)) for slot in slots]

    def _has_room(self, slot_idx: int) -> bool:
        slot = self.pool[slot_idx]
        if slot.sampling is None:
            raise GenerationError(f"slot {slot_idx} was opened without a prompt")
        limit = slot.sampling.max_new_tokens
        # the pending row needs a position of its own
        has_position = self.store.length(slot_idx) + 1 < self.store.max_positions
        return has_position and not (limit and slot.num_frames >= limit)

    def _step_batch(self, slots: list[int]) -> list[StepResult]:
        size = next(size for size in self.batch_sizes if size >= len(slots))
        padded = slots + [self.store.scratch_slot] * (size - len(slots))
        slot_ids = torch.tensor(padded, device=self.store.lengths.device)
        codes = self.run(slot_ids, self._plan(slots)).to("cpu", torch.int32).numpy()
        results: list[StepResult] = []
        for slot_idx, frame in zip(slots, codes, strict=True):
            if frame[0] == self.num_semantic:
                results.append(StepResult(slot_idx, None))
                continue
            self.store.count_on_host(slot_idx, 1)
            self.pool[slot_idx].num_frames += 1
            results.append(StepResult(slot_idx, frame))
        return results

    def _plan(self, slots: list[int]) -> StepPlan:
        params = [self.pool[slot].sampling for slot in slots]
        lengths = [self.store.length(slot) for slot in slots]
        return StepPlan(
            num_rows=len(slots),
            length_bound=self.bound_of(max(lengths) + 1),
            has_cut=any(p is not None and has_cut(p) for p in params),
            has_penalty=any(p is not None and has_penalty(p) for p in params),
            rows=tuple(zip(slots, lengths, strict=True)),
        )
