"""Rotary position factors that never run out.

Source:
    The arithmetic (float32 angles, factors rounded to bfloat16 in every run dtype: the networks
    were trained so) follows fish-speech 0.1.0 (Apache-2.0), ``precompute_freqs_cis``. There the
    table ends at 4096 frames, 190 seconds; here it grows with the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.models.codec.state import AttentionState

_FIRST_LENGTH = 1024
"""Positions of a new table: 48 seconds of S1-mini frames, 256 KiB."""


class RotaryTable:
    """Unit complex numbers ``exp(i * position * base**(-2j / head_dim))`` by position.

    The table is always made on the CPU, so that every device turns by the same numbers, and
    doubles when a longer stream needs it. It is derived from the configuration alone: no
    parameter and no buffer, therefore untouched by dtype changes and absent from state dicts.
    A captured CUDA graph holds the table's address: call ``reserve`` before the capture.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        self.head_dim = head_dim
        self.base = base
        self._table: Tensor | None = None

    @property
    def address(self) -> int:
        """Where the table lies; 0 before there is one."""
        return 0 if self._table is None else self._table.data_ptr()

    def reserve(self, num_positions: int, device: torch.device) -> Tensor:
        """Give a table ``[N >= num_positions, head_dim / 2]`` complex64 on ``device``."""
        table = self._table
        if table is None or table.shape[0] < num_positions or table.device != device:
            length = _FIRST_LENGTH
            while length < num_positions:
                length *= 2
            table = self._table = rotary_factors(length, self.head_dim, self.base).to(device)
        return table

    def first(self, num_positions: int, device: torch.device) -> Tensor:
        """Factors of positions 0.. as ``[num_positions, head_dim / 2]``."""
        return self.reserve(num_positions, device)[:num_positions]

    def following(self, state: AttentionState, num_positions: int) -> Tensor:
        """Factors of each row's next positions as ``[B, num_positions, head_dim / 2]``.

        Pooled rows beyond the table take its last factors: such a row only fills a batch up. It is
        advanced with every batch and never reset, and an index out of range would poison a CUDA
        context.
        """
        device = state.positions.device
        if state.lengths is None:
            table = self._table
            assert table is not None, "the table of pooled streams is reserved by their owner"
        else:
            table = self.reserve(max(state.lengths) + num_positions, device)
        steps = torch.arange(num_positions, device=device)
        positions = state.positions[:, None] + steps
        return table[positions.clamp_(max=table.shape[0] - 1)]


def rotary_factors(num_positions: int, head_dim: int, base: float) -> Tensor:
    """Compute the factors of positions 0.. on the CPU.

    Returns:
        ``[num_positions, head_dim / 2]`` complex64 whose parts are bfloat16 values.
    """
    # A table made in inference mode could not be used in training later.
    with torch.inference_mode(mode=False), torch.device("cpu"):
        frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.outer(torch.arange(num_positions).float(), frequencies)
        factors = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
        return torch.view_as_complex(factors.bfloat16().float())
