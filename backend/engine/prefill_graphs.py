"""Prompts on a card: the slow transformer over a stretch of rows as a CUDA graph.

Eager, a stretch is five hundred kernels started one by one, which takes several times as long as
they run. A graph needs fixed shapes, so a stretch is filled up to a bucket and sees its slot up to
a bound; where it begins is data. The rows that fill up write keys behind the stretch, which nothing
ever reads: whatever comes next there overwrites them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from backend.engine.capture import captured
from backend.engine.card_step import bound_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.engine.capture import GraphRoom
    from backend.engine.kv_store import KVStore, SlotKV
    from backend.models.dual_ar import DualAR

BUCKETS = (32, 128, 512)
"""Rows of a stretch; longer prompts take several."""
SCRATCH_POSITIONS = BUCKETS[-1]
"""What a capture writes of the scratch slot."""


class PrefillGraphs:
    """Stretches of fixed sizes over one store.

    Args:
        model: On the store's device.
        store: Of all slots.
        room: Where graphs are captured; None runs the same stretches eagerly (tests).
    """

    def __init__(self, model: DualAR, store: KVStore, room: GraphRoom | None) -> None:
        self._model = model
        self._store = store
        self._room = room
        self._bound: dict[tuple[int, int], tuple[Tensor, Callable[[], object]]] = {}

    def run(self, rows: Tensor, kv: SlotKV) -> None:
        """Run rows ``[1 + K, T]`` behind what ``kv`` holds; T may be 0."""
        for piece in rows.split(BUCKETS[-1], dim=1):
            length = piece.shape[1]
            if length:
                self._run_piece(piece, kv.slot, kv.length)
                kv.advance(length)

    def warm_up(self) -> None:
        """Make every pair of bucket and bound."""
        most = self._store.max_positions
        bounds = sorted({bound_of(length, most) for length in range(1, most + 1, 128)} | {most})
        for bucket in reversed(BUCKETS):  # the largest first: the others fit into its room
            for bound in reversed(bounds):
                if bound >= min(bucket, bounds[-1]):
                    self._prepare(bucket, bound)

    def _run_piece(self, rows: Tensor, slot: int, start: int) -> None:
        length = rows.shape[1]
        bucket = next(size for size in BUCKETS if size >= length)
        bound = bound_of(start + length, self._store.max_positions)
        packed = torch.zeros(rows.shape[0] * bucket + 2, dtype=torch.int64)
        packed[:-2].view(-1, bucket)[:, :length] = rows
        packed[-2], packed[-1] = slot, start
        static, step = self._prepare(bucket, bound)
        static.copy_(packed.pin_memory() if static.is_cuda else packed, non_blocking=True)
        step()

    def _prepare(self, bucket: int, bound: int) -> tuple[Tensor, Callable[[], object]]:
        key = (bucket, bound)
        if key not in self._bound:
            num_rows = 1 + self._model.config.num_codebooks
            packed = self._store.lengths.new_zeros(num_rows * bucket + 2)
            packed[-2] = self._store.scratch_slot
            step = partial(self._stretch, packed, bucket, bound)
            self._bound[key] = (
                packed,
                step if self._room is None else captured(step, self._room),
            )
        return self._bound[key]

    def _stretch(self, packed: Tensor, bucket: int, bound: int) -> None:
        """Run the rows in ``packed`` ``[(1 + K) * bucket, slot, start]``."""
        rows = packed[:-2].view(1, -1, bucket)
        slot, start = packed[-2:-1], packed[-1:]
        positions = start + torch.arange(bucket, device=packed.device)
        positions = positions.clamp(max=self._store.max_positions - 1)
        offsets = torch.arange(bound, device=packed.device)
        first = slot * self._store.max_positions
        last = self._store.data.shape[3] - 1
        room = _StretchRoom(self._store.data, first + positions, (first + offsets).clamp(max=last))
        self._model.slow(rows, positions[None], room, (offsets <= positions[:, None])[None, None])


@dataclass(frozen=True, slots=True)
class _StretchRoom:
    """One slot as a ``KeyValueStore``, the slot and the positions being data.

    Attributes:
        data: ``[2, L, G, R, D]``, of the store.
        new_rows: ``[B]`` int64, where new keys go.
        seen_rows: ``[bound]`` int64, what is looked at.
    """

    data: Tensor
    new_rows: Tensor
    seen_rows: Tensor

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``[1, G, B, D]`` and return ``[1, G, bound, D]``."""
        seen: list[Tensor] = []
        for room, new in zip(self.data[:, layer_idx].unbind(0), (k, v), strict=True):
            room[:, self.new_rows] = new[0]
            seen.append(room.index_select(1, self.seen_rows)[None])
        return seen[0], seen[1]
