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
from backend.engine.prefill import prefill_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.kv_store import KVStore, SlotKV
    from backend.models.dual_ar import DualAR

    Prefill = Callable[[Tensor, SlotKV], None]
    """Runs rows ``[1 + K, T]`` behind what a slot holds."""

BUCKETS = (32, 128, 512)
"""Rows of a stretch; longer prompts take several."""


@dataclass(frozen=True, slots=True)
class PrefillWay:
    """How prompts are run.

    Attributes:
        run: Runs rows behind what a slot holds.
        warm_up: Prepares every size.
    """

    run: Prefill
    warm_up: Callable[[], None]


def choose_prefill(model: DualAR, store: KVStore, settings: Settings) -> PrefillWay:
    """Choose graphs on a card where ``CUDA_GRAPHS`` allows them, else the plain way."""
    if store.lengths.device.type == "cuda" and settings.cuda_graphs:
        graphs = PrefillGraphs(model, store, has_graphs=True)
        return PrefillWay(graphs.run, graphs.warm_up)
    return PrefillWay(partial(prefill_rows, model), lambda: None)


class PrefillGraphs:
    """Stretches of fixed sizes over one store.

    Args:
        model: On the store's device.
        store: Of all slots.
        has_graphs: False runs the same stretches eagerly (tests).
    """

    def __init__(self, model: DualAR, store: KVStore, *, has_graphs: bool) -> None:
        self._model = model
        self._store = store
        self._has_graphs = has_graphs
        self._pool = torch.cuda.graph_pool_handle() if has_graphs else None
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
        for bucket in BUCKETS:
            for bound in bounds:
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
                captured(step, packed.device, self._pool) if self._has_graphs else step,
            )
        return self._bound[key]

    def _stretch(self, packed: Tensor, bucket: int, bound: int) -> None:
        """Run the rows in ``packed`` ``[(1 + K) * bucket, slot, start]``."""
        rows = packed[:-2].view(1, -1, bucket)
        slot, start = packed[-2:-1], packed[-1:]
        positions = start + torch.arange(bucket, device=packed.device)
        positions = positions.clamp(max=self._store.max_positions - 1)
        seen = torch.arange(bound, device=packed.device) <= positions[:, None]
        room = _StretchRoom(self._store.data, slot, positions, bound)
        self._model.slow(rows, positions[None], room, seen[None, None])


@dataclass(frozen=True, slots=True)
class _StretchRoom:
    """One slot as a ``KeyValueStore``, the slot and the positions being data.

    Attributes:
        data: ``[2, L, S, G, T, D]``, of the store.
        slot: ``[1]`` int64.
        positions: ``[B]`` int64, where new keys go.
        bound: Positions that are looked at.
    """

    data: Tensor
    slot: Tensor
    positions: Tensor
    bound: int

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``[1, G, B, D]`` and return ``[1, G, bound, D]``."""
        seen: list[Tensor] = []
        for room, new in zip(self.data[:, layer_idx].unbind(0), (k, v), strict=True):
            room[self.slot, :, self.positions] = new[0].transpose(0, 1)
            seen.append(room[:, :, : self.bound].index_select(0, self.slot))
        return seen[0], seen[1]
