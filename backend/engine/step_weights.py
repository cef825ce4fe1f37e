"""Weights as the kernels of a decode step read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


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
