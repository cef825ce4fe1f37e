"""Keys and values of all slots in one tensor that never moves.

A captured CUDA graph reads fixed addresses, so the store is made once: ``[2, L, G, R, D]``. Slot
``s`` has the rows from ``s * T`` on, a row a position; the scratch slot has the rows behind all
slots, and need not have as many. On a CPU the pages of unused positions cost nothing: the operating
system gives them out when they are first written. Lengths are kept twice: on the device for the
decode step, which reads nothing back, and on the host, where limits are checked.
"""

from __future__ import annotations

import torch
from torch import Tensor

KV_BITS = {"none": 16, "int8": 8, "int4": 4}
"""Bits of a stored number by KV_QUANTIZATION; 16 stands for the network's own format."""
SCALE_DTYPE = torch.float16


def kv_bytes(head_dim: int, dtype: torch.dtype, bits: int) -> int:
    """Bytes of one head of one position, of keys or values, its scale included."""
    if bits == KV_BITS["none"]:
        return head_dim * dtype.itemsize
    return head_dim * bits // 8 + SCALE_DTYPE.itemsize


class KVStore:
    """Room for the keys and values of ``num_slots`` sequences and of one scratch slot.

    Rows that only fill up a batch work on the scratch slot, the last one.

    Args:
        scratch_positions: Positions that are written of the scratch slot; all by default.
        bits: See ``KV_BITS``. With fewer than 16 only ``engine.kernels`` read and write the store.

    Attributes:
        data: ``[2, L, G, R, D]``; 0 holds keys, 1 values. ``R = num_slots * T`` and the scratch
            slot's. With 8 bits int8, with 4 uint8 ``[2, L, G, R, D / 2]``.
        scales: ``[2, L, G, R]`` float16 with fewer than 16 bits, else None.
        max_positions: Positions each slot has room for, ``T``.
        lengths: ``[S + 1]`` int64 on the device: positions written.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_heads: int,
        max_positions: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        scratch_positions: int | None = None,
        bits: int = 16,
    ) -> None:
        self.num_slots = num_slots
        self.bits = bits
        self.max_positions = max_positions
        scratch = min(max_positions, scratch_positions or max_positions)
        rows = (2, num_layers, num_heads, num_slots * max_positions + scratch)
        stored = {16: (head_dim, dtype), 8: (head_dim, torch.int8), 4: (head_dim // 2, torch.uint8)}
        width, stored_as = stored[bits]
        self.data = torch.zeros(*rows, width, device=device, dtype=stored_as)
        is_plain = bits == KV_BITS["none"]
        self.scales = None if is_plain else torch.zeros(*rows, device=device, dtype=SCALE_DTYPE)
        self.lengths = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        self._host_lengths = [0] * (num_slots + 1)

    @property
    def scratch_slot(self) -> int:
        """The slot of rows that only fill up a batch."""
        return self.num_slots

    @property
    def num_bytes(self) -> int:
        """Bytes that are held, used or not."""
        parts = [self.data] if self.scales is None else [self.data, self.scales]
        return sum(part.numel() * part.element_size() for part in parts)

    def scales_of(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Scales ``[G, R]`` of a layer's keys and values; without any, something to point at."""
        keys, values = (self.data if self.scales is None else self.scales)[:, layer_idx].unbind(0)
        return keys, values

    def length(self, slot: int) -> int:
        """Positions that are written in ``slot``, as the host knows."""
        return self._host_lengths[slot]

    def count_on_host(self, slot: int, num_positions: int) -> None:
        """Note on the host what a decode step has counted on the device."""
        self._host_lengths[slot] += num_positions

    def set_length(self, slot: int, length: int) -> None:
        """Set a slot's length on both sides."""
        self._host_lengths[slot] = length
        self.lengths[slot] = length

    def slot_data(self, slot: int, start: int = 0, end: int | None = None) -> Tensor:
        """Keys and values ``[2, L, G, end - start, D]`` of a slot's positions, as a view."""
        first = slot * self.max_positions
        stop = self.max_positions if end is None else end
        return self.data[:, :, :, first + start : first + stop]

    def view(self, slot: int) -> SlotKV:
        """One slot as a store for the network's own forward pass."""
        return SlotKV(self, slot)


class SlotKV:
    """One slot of a ``KVStore``. Fulfills ``models.layers.KeyValueStore`` for a batch of one.

    Each layer's ``extend`` writes behind what is there and returns all of it; ``advance`` makes the
    new positions count once all layers have written.
    """

    def __init__(self, store: KVStore, slot: int) -> None:
        self._store = store
        self._slot = slot

    @property
    def slot(self) -> int:
        """Which slot it is."""
        return self._slot

    @property
    def max_positions(self) -> int:
        """Positions there is room for."""
        return self._store.max_positions

    @property
    def length(self) -> int:
        """Positions that count."""
        return self._store.length(self._slot)

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``[1, G, T, D]`` keys and values, return all ``[1, G, length + T, D]`` so far."""
        start = self.length
        end = start + k.shape[2]
        if end > self.max_positions:
            raise IndexError(f"position {end - 1} is beyond the store's {self.max_positions}")
        room = self._store.slot_data(self._slot, 0, end)[:, layer_idx, None]
        room[0, :, :, start:] = k
        room[1, :, :, start:] = v
        return room[0], room[1]

    def advance(self, num_positions: int) -> None:
        """Count positions that every layer has written."""
        self._store.set_length(self._slot, self.length + num_positions)

    def stretch(self, start: int, end: int) -> tuple[Tensor, ...]:
        """What some positions hold, as views: ``[2, L, G, end - start, D]``, and their scales."""
        data, scales = self._store.slot_data(self._slot, start, end), self._store.scales
        if scales is None:
            return (data,)
        first = self._slot * self._store.max_positions
        return data, scales[..., first + start : first + end]
