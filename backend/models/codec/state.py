"""What a causal network must remember of its past to go on exactly where it stopped.

Everything is kept in plain tensors of a fixed shape, updated in place, rows (streams) first: rows
can be batched, reset and copied by index, and the addresses never change under a CUDA graph.
A state of zeros at position 0 is the beginning of a stream: zeros are what the convolutions pad
with, and the attention ignores what lies before position 0.

Nothing is kept in the modules, so one codec serves any number of streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from backend.models.codec.config import TransformerConfig
    from backend.models.codec.fused.state import FusedPool

Histories: TypeAlias = "Iterator[Tensor]"
"""The past inputs of each convolution, in the order in which the convolutions run.

A convolution with a past takes the next tensor ``[B, C, history_length]`` and leaves its newest
inputs in it.
"""


@dataclass(slots=True)
class AttentionState:
    """The last ``window - 1`` positions of one window-limited transformer.

    Attributes:
        keys: Per layer ``[B, H, window - 1, D]``, after RoPE; the newest position is the last.
        values: Per layer, as ``keys``.
        positions: ``[B]`` int64 on the device: positions seen so far, which is the next position.
        lengths: The same on the host: it bounds the RoPE table without a device read. None in a
            state taken from a ``StatePool``: there the owner of the pool has reserved the table.
    """

    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    lengths: list[int] | None

    def advance(self, num_positions: int) -> None:
        """Count ``num_positions`` further positions in every row."""
        self.positions.add_(num_positions)
        if self.lengths is not None:
            self.lengths = [length + num_positions for length in self.lengths]


@dataclass(slots=True)
class StreamState:
    """The past of a chain of convolutions and transformers.

    Attributes:
        attentions: One per transformer, in the order in which they run.
        histories: The past inputs of each convolution that has a past, in running order.
    """

    attentions: list[AttentionState]
    histories: list[Tensor] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Rows (streams) that advance together."""
        return self.attentions[0].positions.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the state, rows first."""
        for attention in self.attentions:
            yield attention.positions
            yield from attention.keys
            yield from attention.values
        yield from self.histories

    @torch.inference_mode()
    def reset_row(self, row_idx: int) -> None:
        """Put one row back to the beginning of a stream; the others are untouched."""
        for tensor in self.tensors():
            tensor[row_idx].zero_()
        for attention in self.attentions:
            if attention.lengths is not None:
                attention.lengths[row_idx] = 0


class DecodeState(StreamState):
    """What ``Codec.decode_stream`` carries from one chunk of frames to the next.

    Made by ``Codec.new_decode_state``; changed in place by ``decode_stream`` and ``reset_row``.
    Not safe to use from two threads at once.
    """

    @property
    def frames(self) -> list[int]:
        """Frames decoded so far, per row. Reads the device for a state without ``lengths``."""
        attention = self.attentions[0]
        return attention.positions.tolist() if attention.lengths is None else [*attention.lengths]

    def with_tensors(self, tensors: Iterator[Tensor]) -> DecodeState:
        """Give a state of the same structure over other tensors, in the order of ``tensors()``."""
        attentions: list[AttentionState] = []
        for attention in self.attentions:
            positions = next(tensors)
            keys = [next(tensors) for _ in attention.keys]
            values = [next(tensors) for _ in attention.values]
            attentions.append(AttentionState(keys, values, positions, lengths=None))
        return DecodeState(attentions, [next(tensors) for _ in self.histories])


@dataclass(slots=True)
class EncodeState(StreamState):
    """What encoding carries from one chunk of samples to the next.

    Attributes:
        fused: The past of the encoder's convolutions where they run fused; ``histories`` are then
            those behind the encoder.
    """

    fused: FusedPool | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the state, rows first."""
        yield from StreamState.tensors(self)
        if self.fused is not None:
            yield from (self.fused.histories, self.fused.positions)

    @torch.inference_mode()
    def reset(self) -> None:
        """Put all rows back to the beginning; reads nothing on the host."""
        for tensor in self.tensors():
            tensor.zero_()
        for attention in self.attentions:
            if attention.lengths is not None:
                attention.lengths = [0] * len(attention.lengths)


def new_attention_state(
    config: TransformerConfig, batch_size: int, device: torch.device, dtype: torch.dtype
) -> AttentionState:
    """Give the beginning of a stream for one transformer."""
    shape = (batch_size, config.n_head, config.window_size - 1, config.head_dim)
    # Never inference tensors: those could not be updated outside inference mode.
    with torch.inference_mode(mode=False):
        return AttentionState(
            keys=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)],
            values=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)],
            positions=torch.zeros(batch_size, device=device, dtype=torch.int64),
            lengths=[0] * batch_size,
        )


def new_histories(
    shapes: Iterable[tuple[int, int]],
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Give the beginning of a stream for convolutions of ``(channels, history_length)`` each."""
    with torch.inference_mode(mode=False):
        return [
            torch.zeros(batch_size, channels, length, device=device, dtype=dtype)
            for channels, length in shapes
        ]
