"""Weights as the kernels of a decode step read them, and how their products are cut up."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton

from backend.models.quantized_linear import NF4_BLOCK

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_SPLITS = 4
"""Programs that share one sum over a wide input."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """How a product of many rows is cut up."""

    block_m: int
    block_n: int
    block_k: int
    split_k: int
    warps: int
    stages: int


def tile_shape(
    rows: int, features: int, width: int, *, is_sum: bool, is_nf4: bool = False
) -> TileShape:
    """Choose tiles; the sums of a row do not depend on how many rows there are."""
    block_k = math.gcd(width, NF4_BLOCK if is_nf4 else 128)
    split_k = 1
    while is_sum and split_k * 2 <= MOST_SPLITS and width % (split_k * 2 * block_k) == 0:
        split_k *= 2
    block_m = min(64, max(16, triton.next_power_of_2(rows)))
    return TileShape(block_m, 32, block_k, split_k, 4, 4)


@dataclass(frozen=True, slots=True)
class Weights:
    """A linear layer's matrix ``[N, K]``, its bias, and what its format needs.

    Attributes:
        weight: In the rows' type, int8, or uint8 ``[N, K / 2]`` for NF4.
        scale: ``[N]`` of int8 rows, ``[N, K / 64]`` of NF4 blocks.
        bias: ``[N]``.
    """

    weight: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    @property
    def is_int8(self) -> bool:
        """Whether the weights are int8."""
        return self.weight.dtype == torch.int8

    @property
    def is_nf4(self) -> bool:
        """Whether the weights are NF4."""
        return self.weight.dtype == torch.uint8

    @property
    def num_inputs(self) -> int:
        """``K``."""
        return self.weight.shape[1] * (2 if self.is_nf4 else 1)


def weights_of(layer: nn.Module | Tensor) -> Weights:
    """What a product with a layer, or with a bare matrix, reads."""
    if isinstance(layer, torch.Tensor):
        return Weights(layer)
    bias = getattr(layer, "bias", None)
    for name in ("weight_int8", "weight_nf4"):
        quantized = getattr(layer, name, None)
        if quantized is not None:
            return Weights(quantized, layer.scale, bias)  # pyright: ignore[reportArgumentType]
    return Weights(layer.weight, None, bias)  # pyright: ignore[reportArgumentType]


def few_rows_shape(width: int, *, is_int8: bool) -> tuple[int, int]:
    """Features of a program and its warps: measured best on an H200 over 2 to 16 features."""
    block_n = 4
    weights_a_thread = 32 if is_int8 else 128
    weights = block_n * triton.next_power_of_2(width)
    return block_n, max(1, weights // (weights_a_thread * 32))
