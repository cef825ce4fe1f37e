"""The past of many streams, as the fused decoder keeps it.

Every convolution's past lies channels-last in one row of a stream, where the kernels read and write
it by row number. Keys and values lie in rings: the position ``p`` of a stream is in entry
``p % ring``, so nothing moves when a stream goes on. Rows of zeros are streams that have not begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.models.codec.config import TransformerConfig

_SHORTEST_RING = 16
"""Entries that a kernel reads at a time at least."""


class Place(NamedTuple):
    """Where the past inputs of one convolution lie in a stream's row.

    Attributes:
        start: First element.
        rows: Past inputs.
        channels: Values of an input.
    """

    start: int
    rows: int
    channels: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.channels


class Places:
    """Hands out places of one row, side by side."""

    def __init__(self) -> None:
        self.width = 0

    def take(self, rows: int, channels: int) -> Place | None:
        """Reserve the next place; None for a convolution without a past."""
        if rows == 0:
            return None
        place = Place(self.width, rows, channels)
        self.width += place.size
        return place


def ring_length(window: int) -> int:
    """Entries of a ring that holds the ``window - 1`` positions before a new one."""
    length = _SHORTEST_RING
    while length < window - 1:
        length *= 2
    return length


class FusedPool:
    """Room for a fixed number of streams.

    Attributes:
        histories: ``[N, width]``, the places of all convolutions.
        rings: ``[N, 2, L, H, ring, D]``, keys and values by layer and head; a key has its rotated
            even channels first, then the odd ones.
        positions: ``[N]`` int64, frames decoded so far.
    """

    def __init__(
        self,
        width: int,
        transformer: TransformerConfig,
        num_rows: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (
            num_rows, 2, transformer.n_layer, transformer.n_head,
            ring_length(transformer.window_size), transformer.head_dim,
        )  # fmt: skip
        # Never inference tensors: those could not be updated outside inference mode.
        with torch.inference_mode(mode=False):
            self.histories = torch.zeros(num_rows, width, device=device, dtype=dtype)
            self.rings = torch.zeros(shape, device=device, dtype=dtype)
            self.positions = torch.zeros(num_rows, device=device, dtype=torch.int64)

    @property
    def num_rows(self) -> int:
        """Streams there is room for."""
        return self.positions.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory of all rows."""
        tensors = (self.histories, self.rings, self.positions)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def reset_row(self, row_idx: int) -> None:
        """Put one row to the beginning of a stream; the others are untouched."""
        self.histories[row_idx].zero_()
        self.positions[row_idx].zero_()  # entries of rings before position 0 are not looked at


@dataclass(frozen=True, slots=True)
class Streams:
    """Which streams of a pool go on, and by how much.

    Attributes:
        pool: Where they are kept; changed in place.
        rows: ``[B]`` int64: their rows. Several may name a row whose samples nobody wants.
        lengths: ``[B]`` int64: frames that are real; what follows them in a signal leaves no trace.
    """

    pool: FusedPool
    rows: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Signal:
    """Rows of channels, with room in front for the past of the convolution that reads them.

    Attributes:
        data: ``[B, head + T, C]`` contiguous.
        rate: Rows a frame, so that ``T = frames * rate``.
        place: Where the past is kept between calls; None for a signal without a head.
        squares: ``[B * T, C / 16]`` float32: sums of squares of 16 neighboring channels, which the
            kernels leave beside a signal that will be normalized; None beside others.
    """

    data: Tensor
    rate: int
    place: Place | None = None
    squares: Tensor | None = None

    @property
    def head(self) -> int:
        """Rows of the past in front."""
        return 0 if self.place is None else self.place.rows

    @property
    def length(self) -> int:
        """New rows of each stream."""
        return self.data.shape[1] - self.head

    @property
    def channels(self) -> int:
        """Values of a row."""
        return self.data.shape[2]

    @property
    def body(self) -> Tensor:
        """The new rows, ``[B, T, C]``."""
        return self.data[:, self.head :]
