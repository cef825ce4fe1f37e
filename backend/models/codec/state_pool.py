"""The carried state of many streams in a few tensors: rows are gathered, advanced, put back.

A decoder of S1-mini carries some fifty tensors a stream. Kept side by side in one row of one large
tensor per dtype, the rows of any set of streams come and go with one copy each way, and the set is
named by a tensor of row numbers: nothing on the host decides what a kernel touches, so the whole
step can be captured once as a CUDA graph and replayed for other streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from backend.models.codec.state import DecodeState


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one tensor of a stream lies in its row."""

    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]

    def view(self, rows: Tensor) -> Tensor:
        stop = self.start + math.prod(self.shape)
        return rows[:, self.start : stop].view(rows.shape[0], *self.shape)


@dataclass(frozen=True, slots=True)
class GatheredRows:
    """Copies of some rows of a pool.

    Attributes:
        state: The rows as ``Codec.decode_stream`` advances them; views of ``flats``.
        flats: ``[B, n]`` per dtype.
    """

    state: DecodeState
    flats: Mapping[torch.dtype, Tensor]


class StatePool:
    """Room for a fixed number of streams, zeros (which is the beginning of a stream) at first.

    Args:
        template: The state of one stream, from ``Codec.new_decode_state(1)``: structure and device.
        num_rows: Streams there is room for.
    """

    def __init__(self, template: DecodeState, num_rows: int) -> None:
        self._template = template
        self._places: list[_Place] = []
        widths: dict[torch.dtype, int] = {}
        for tensor in template.tensors():
            start = widths.get(tensor.dtype, 0)
            self._places.append(_Place(tensor.dtype, start, tuple(tensor.shape[1:])))
            widths[tensor.dtype] = start + tensor[0].numel()
        device = next(template.tensors()).device
        # Never inference tensors: those could not be updated outside inference mode.
        with torch.inference_mode(mode=False):
            self._flats = {
                dtype: torch.zeros(num_rows, width, dtype=dtype, device=device)
                for dtype, width in widths.items()
            }
            self._rows = [
                self._state_over(
                    {dtype: flat[idx : idx + 1] for dtype, flat in self._flats.items()}
                )
                for idx in range(num_rows)
            ]

    @property
    def num_rows(self) -> int:
        """Streams there is room for."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Memory of all rows."""
        return sum(flat.numel() * flat.element_size() for flat in self._flats.values())

    def row(self, row_idx: int) -> DecodeState:
        """Give the state of one stream in place, without a copy."""
        return self._rows[row_idx]

    def gather(self, rows: Tensor) -> GatheredRows:
        """Copy ``rows [B]`` (int64 on the device) out."""
        flats = {dtype: flat.index_select(0, rows) for dtype, flat in self._flats.items()}
        return GatheredRows(self._state_over(flats), flats)

    def scatter(self, rows: Tensor, gathered: GatheredRows) -> None:
        """Put what was gathered from ``rows`` back. Of a row that occurs twice one copy stays."""
        for dtype, flat in self._flats.items():
            flat.index_copy_(0, rows, gathered.flats[dtype])

    @torch.inference_mode()
    def reset_row(self, row_idx: int) -> None:
        """Put one row to the beginning of a stream; the others are untouched."""
        for flat in self._flats.values():
            flat[row_idx].zero_()

    def _state_over(self, flats: Mapping[torch.dtype, Tensor]) -> DecodeState:
        views: Iterator[Tensor] = (place.view(flats[place.dtype]) for place in self._places)
        return self._template.with_tensors(views)
