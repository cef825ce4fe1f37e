"""Keys and values of one sequence, outside the network."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Room for the keys and values of ``max_positions`` positions in every layer.

    Fulfills ``models.layers.KeyValueStore``: each layer's ``extend`` writes behind what is there
    and returns all of it; ``advance`` makes the new positions count once all layers have written.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        max_positions: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        # [2, L, B=1, H, T, D]; zeroed lazily by the operating system on a CPU
        self._store = torch.zeros(
            2, num_layers, 1, num_heads, max_positions, head_dim, device=device, dtype=dtype
        )
        self.length = 0

    @property
    def max_positions(self) -> int:
        """Positions there is room for."""
        return self._store.shape[4]

    @property
    def num_bytes(self) -> int:
        """Bytes that are held, used or not."""
        return self._store.numel() * self._store.element_size()

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``[1, H, T, D]`` keys and values, return all ``[1, H, length + T, D]`` so far."""
        end = self.length + k.shape[2]
        if end > self.max_positions:
            raise IndexError(f"position {end - 1} is beyond the cache's {self.max_positions}")
        keys, values = self._store[0, layer_idx], self._store[1, layer_idx]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, num_positions: int) -> None:
        """Count positions that every layer has written."""
        self.length += num_positions

    def reset(self) -> None:
        """Forget everything."""
        self.length = 0
