"""How the decode step's queries meet the keys and values of their slots.

Two ways with one protocol. ``RowAttention`` walks over the rows on the host, each over its exact
length: nothing is computed for others, so a row in a batch is the row alone, bit for bit.
``MaskedAttention`` is one call for all rows over a common bound, with a mask: no host knowledge of
any row goes in, so a CUDA graph can be made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from backend.models.layers import grouped_attention

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.kv_store import KVStore


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the host decides about a decode step; everything else stays on the device.

    Attributes:
        num_rows: Rows whose frames are wanted; those behind them only fill up the batch.
        length_bound: No row has more positions than this, the new one included.
        has_cut: Whether any row has a top-p or top-k.
        has_penalty: Whether any row has a repetition penalty.
        rows: ``(slot, length)`` of each wanted row, for ``RowAttention`` alone.
    """

    num_rows: int
    length_bound: int
    has_cut: bool = True
    has_penalty: bool = True
    rows: tuple[tuple[int, int], ...] = ()


class StepAttention(Protocol):
    """The attention of one decode step."""

    def attend(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store each row's new position and attend to all of its slot.

        Args:
            layer_idx: Layer of the slow transformer.
            q: ``[P, H, D]``, normalized and rotated.
            k: ``[P, G, D]``, likewise.
            v: ``[P, G, D]``.

        Returns:
            ``[P, H * D]``; rows that only fill up the batch hold anything finite.
        """
        ...


class AttentionKind(Protocol):
    """Makes the attention of one decode step."""

    def __call__(
        self, store: KVStore, slot_ids: Tensor, positions: Tensor, plan: StepPlan
    ) -> StepAttention:
        """Take ``[P]`` slots and the ``[P]`` positions that their new keys get."""
        ...


class RowAttention:
    """Row after row, each over its exact length."""

    def __init__(self, store: KVStore, slot_ids: Tensor, positions: Tensor, plan: StepPlan) -> None:
        del slot_ids, positions  # the host knows both
        self._rows = [_RowViews.of(store, slot, length) for slot, length in plan.rows]
        self._mixed: Tensor | None = None

    def attend(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``StepAttention``. The result is overwritten by the next layer's."""
        if self._mixed is None:
            self._mixed = q.new_zeros(q.shape)
        for row, views in enumerate(self._rows):
            views.new_keys[layer_idx].copy_(k[row])
            views.new_values[layer_idx].copy_(v[row])
            self._mixed[row] = grouped_attention(
                q[row, None, :, None], views.keys[layer_idx], views.values[layer_idx], None
            )[0, :, 0]
        return self._mixed.flatten(1)


@dataclass(frozen=True, slots=True)
class _RowViews:
    """Where one row reads and writes, a view for each layer, cut once a step."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    new_keys: tuple[Tensor, ...]
    new_values: tuple[Tensor, ...]

    @classmethod
    def of(cls, store: KVStore, slot: int, length: int) -> _RowViews:
        seen = store.slot_data(slot, 0, length + 1)[:, :, None]  # [2, L, 1, G, T, D]
        keys, values = seen.unbind(0)
        new_keys, new_values = seen[:, :, 0, :, length].unbind(0)
        return cls(keys.unbind(0), values.unbind(0), new_keys.unbind(0), new_values.unbind(0))


class MaskedAttention:
    """All rows at once over ``length_bound`` positions, later ones masked."""

    def __init__(self, store: KVStore, slot_ids: Tensor, positions: Tensor, plan: StepPlan) -> None:
        self._store = store
        first = slot_ids * store.max_positions
        self._new_rows = first + positions
        offsets = torch.arange(plan.length_bound, device=slot_ids.device)
        # the scratch slot, which nobody hears, may end before the bound
        rows = (first[:, None] + offsets).clamp_(max=store.data.shape[3] - 1)
        self._rows, self._shape = rows.flatten(), rows.shape
        self._mask = (offsets <= positions[:, None])[:, None, None]

    def attend(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``StepAttention``."""
        keys, values = self._store.data[0, layer_idx], self._store.data[1, layer_idx]
        keys[:, self._new_rows] = k.transpose(0, 1)
        values[:, self._new_rows] = v.transpose(0, 1)
        k_seen = keys.index_select(1, self._rows).unflatten(1, self._shape).transpose(0, 1)
        v_seen = values.index_select(1, self._rows).unflatten(1, self._shape).transpose(0, 1)
        return grouped_attention(q[:, :, None], k_seen, v_seen, self._mask).flatten(1)
