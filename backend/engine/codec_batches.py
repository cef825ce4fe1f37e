"""Batches of the codec: where the frames of a call go to, and where their samples go.

A card waits for whatever the host does before the first batch of a call is started. So all that
follows from the lengths of a call is worked out once for every call like it, codes are copied as
one where they lie as the step wants them, and a batch crosses in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Values = TypeVar("Values", Tensor, "NDArray[np.int64]")


class Piece(NamedTuple):
    """Frames of one stream that are decoded in one go.

    Attributes:
        stream: Index of the stream in the call.
        start: First frame.
        stop: End of the frames.
    """

    stream: int
    start: int
    stop: int


def unpacked(packed: Values, num_rows: int, num_codebooks: int) -> tuple[Values, Values, Values]:
    """Codes ``[B, K, f]``, rows and lengths ``[B]`` that lie side by side in ``packed``."""
    codes = packed[: -2 * num_rows].reshape(num_rows, num_codebooks, -1)
    return codes, packed[-2 * num_rows : -num_rows], packed[-num_rows:]


@dataclass(frozen=True, slots=True)
class StepInput:
    """What a step is given, in the host's memory, from where it crosses in one copy.

    Attributes:
        packed: ``[B * K * f + 2 * B]`` int64, all that follows side by side.
        codes: ``[B, K, f]``.
        rows: ``[B]``, rows of the codec's state, none twice but for the scratch row.
        lengths: ``[B]``, how many of the f frames each row has.
    """

    packed: Tensor
    codes: NDArray[np.int64]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def new(
        cls, num_rows: int, num_codebooks: int, num_frames: int, device: torch.device
    ) -> StepInput:
        """Give room that may be filled at once, whatever ``device`` still reads of others."""
        packed = torch.empty(
            num_rows * (num_codebooks * num_frames + 2), dtype=torch.int64,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        return cls(packed, *unpacked(packed.numpy(), num_rows, num_codebooks))

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, rows and lengths on ``device``."""
        num_rows, num_codebooks, _ = self.codes.shape
        packed = self.packed.to(device, non_blocking=True)
        return unpacked(packed, num_rows, num_codebooks)

    def fill_up(self, first: int, scratch_row: int) -> None:
        """Let the rows from ``first`` on be those that nobody hears."""
        self.codes[first:] = 0
        self.rows[first:] = scratch_row
        self.lengths[first:] = self.codes.shape[2]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces of different streams that are decoded together.

    Attributes:
        pieces: A row each.
        num_frames: Of a row.
        streams: ``[B]``, the pieces' streams.
        lengths: ``[B]``, the pieces' frames; rows that have more are filled up behind them.
        are_whole: Whether every piece is all that its stream has in this call, and fills its row.
        places: Where the frames of each piece belong in the call's sound, ``(start, stop)``.
        is_joined: Whether these adjoin in the order of the rows and are equally long.
    """

    pieces: tuple[Piece, ...]
    num_frames: int
    streams: NDArray[np.int64]
    lengths: NDArray[np.int64]
    are_whole: bool
    places: tuple[tuple[int, int], ...]
    is_joined: bool

    @classmethod
    def of(cls, pieces: Sequence[Piece], num_frames: int, starts: Sequence[int]) -> Batch:
        """Work it out.

        Args:
            pieces: Of different streams.
            num_frames: Of a row.
            starts: Where each stream begins in the call's sound, and where the last one ends.
        """
        sizes = [piece.stop - piece.start for piece in pieces]
        ends = [starts[piece.stream + 1] - starts[piece.stream] for piece in pieces]
        places = [(starts[p.stream] + p.start, starts[p.stream] + p.stop) for p in pieces]
        first = places[0][0]
        joined = [(first + i * sizes[0], first + (i + 1) * sizes[0]) for i in range(len(places))]
        return cls(
            pieces=tuple(pieces),
            num_frames=num_frames,
            streams=np.array([piece.stream for piece in pieces]),
            lengths=np.array(sizes),
            are_whole=sizes == ends == [num_frames] * len(pieces),
            places=tuple(places),
            is_joined=places == joined,
        )

    def write(
        self, codes: Sequence[NDArray[np.int32]], rows: NDArray[np.int64], into: StepInput
    ) -> None:
        """Lay the frames of the pieces out for a step.

        Args:
            codes: ``[K, F]`` of each stream of the call.
            rows: Their rows of the codec's state.
            into: With as many rows as there are pieces, or more.
        """
        num_rows = len(self.pieces)
        into.rows[:num_rows] = rows[self.streams]
        into.lengths[:num_rows] = self.lengths
        if self.are_whole:
            given = into.codes[:num_rows].reshape(-1, self.num_frames)
            np.concatenate([codes[piece.stream] for piece in self.pieces], out=given)
            return
        for row, (stream, start, stop) in zip(into.codes, self.pieces, strict=False):
            row[:, : stop - start] = codes[stream][:, start:stop]
            row[:, stop - start :] = 0

    def fetch(self, samples: Tensor, on_host: Tensor) -> None:
        """Begin to copy the samples of each piece to its place, at once where they adjoin.

        Args:
            samples: ``[B or more, f, frame_length]`` on the device.
            on_host: ``[F, frame_length]``, which the device can write to while the host goes on.
        """
        if self.is_joined:
            joined = samples[: len(self.places), : self.lengths[0]]
            start, stop = self.places[0][0], self.places[-1][1]
            on_host[start:stop].view_as(joined).copy_(joined, non_blocking=True)
            return
        for row, (start, stop) in zip(samples, self.places, strict=False):
            on_host[start:stop].copy_(row[: stop - start], non_blocking=True)
