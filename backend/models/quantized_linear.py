"""Linear layers whose weights are stored with fewer bits: int8 by row, NF4 by block.

Only the weights are quantized; inputs, outputs and the arithmetic keep the network's number format.
The stored tensors are plain, contiguous and row-major, so that a kernel can read them where they
lie. Shape letters: ``N`` outputs, ``K`` inputs, ``P`` = ``K`` filled up to whole blocks.

Source: the table and the block size of NF4 are those of QLoRA (Dettmers et al., 2023, appendix E);
the code is our own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

INT8_MAX = 127
NF4_BLOCK = 64
"""Weights of a row that share one scale."""
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 quantiles of a normal distribution, scaled to -1..1 and with an exact zero."""

_PACKED_MATMUL: Callable[[Tensor, Tensor, Tensor], Tensor] | None = getattr(
    torch, "_weight_int8pack_mm", None
)
"""PyTorch's own int8 matmul, not promised to stay. In float32 it is exact too, but 12 times slower
than a float32 matmul, so it serves bfloat16 alone. Where a size is no multiple of its blocks it
reads beyond its tensors."""
_PACKED_MULTIPLE = 64


def nf4_width(num_inputs: int) -> int:
    """``P``: inputs of a row, filled up to whole blocks."""
    return -(-num_inputs // NF4_BLOCK) * NF4_BLOCK


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 255 equal steps around zero.

    Args:
        weight: ``[N, K]`` floating point.

    Returns:
        ``weight_int8`` ``[N, K]`` int8 in -127..127 and ``scale`` ``[N]`` float32, with
        ``weight ~ weight_int8 * scale``. The scales are numbers that bfloat16 holds exactly, so
        that a bfloat16 kernel multiplies by the same ones.
    """
    wide = weight.float()
    exact = wide.abs().amax(dim=1) / INT8_MAX
    rounded = exact.to(torch.bfloat16)
    # Rounded down, the largest weight would leave the range: take the next bfloat16 above.
    above = (rounded.view(torch.int16) + 1).view(torch.bfloat16)
    scale = torch.where(rounded < exact, above, rounded).float()
    steps = wide / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
    codes = steps.round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return codes.contiguous(), scale.contiguous()


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each block of 64 weights of a row to the 16 values of NF4.

    Args:
        weight: ``[N, K]`` floating point.

    Returns:
        ``weight_nf4`` ``[N, P / 2]`` uint8: input ``2j`` in the upper half of byte ``j``, input
        ``2j + 1`` in the lower; and ``scale`` ``[N, P / 64]`` float16, the largest magnitude of
        each block. Inputs beyond ``K`` have the code of zero.
    """
    num_rows, num_inputs = weight.shape
    width = nf4_width(num_inputs)
    blocks = F.pad(weight.float(), (0, width - num_inputs)).view(num_rows, -1, NF4_BLOCK)
    scale = blocks.abs().amax(dim=2).to(torch.float16)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale)).float()[..., None]
    table = _table(weight.device)
    borders = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks / divisor, borders, out_int32=True).to(torch.uint8)
    pairs = codes.view(num_rows, -1, 2)
    return ((pairs[..., 0] << 4) | pairs[..., 1]).contiguous(), scale.contiguous()


class QuantizedLinear(nn.Module):
    """A linear layer with int8 weights and one scale per output.

    Attributes:
        weight_int8: ``[N, K]`` int8, contiguous.
        scale: ``[N]`` float32 (values that bfloat16 holds exactly).
        bias: ``[N]`` in the network's number format, or None.
    """

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight_int8", torch.zeros(out_features, in_features).to(torch.int8))
        self.register_buffer("scale", torch.zeros(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers, ``[N, K]`` in ``dtype``."""
        return (self.weight_int8.float() * self.scale[:, None]).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in ``x``'s dtype."""
        if x.dtype == torch.float32:
            out = F.linear(x, self.weight_int8.float()) * self.scale
        elif _PACKED_MATMUL and self._fits_packed_matmul(x):
            # Reads int8 and sums in float32; as exact as a bfloat16 matmul, twice as fast.
            rows = x.reshape(-1, self.in_features)
            out = _PACKED_MATMUL(rows, self.weight_int8, self.scale.to(x.dtype))
            out = out.view(*x.shape[:-1], self.out_features)
        else:
            out = F.linear(x, self.dequantized(x.dtype))
        return out if self.bias is None else out + self.bias

    def _fits_packed_matmul(self, x: Tensor) -> bool:
        in_blocks = self.in_features % _PACKED_MULTIPLE == self.out_features % _PACKED_MULTIPLE == 0
        return in_blocks and x.device.type == "cpu" and x.dtype == torch.bfloat16


class NF4Linear(nn.Module):
    """A linear layer with 4-bit weights, two a byte, and one scale per block of 64 inputs.

    Attributes:
        weight_nf4: ``[N, P / 2]`` uint8, contiguous; see ``quantize_nf4``.
        scale: ``[N, P / 64]`` float16.
        bias: ``[N]`` in the network's number format, or None.
        kernel: Another way to compute ``x @ weight.T``, see ``models.nf4_kernels``; None
            dequantizes with plain PyTorch.
    """

    weight_nf4: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        width = nf4_width(in_features)
        packed = torch.zeros(out_features, width // 2).to(torch.uint8)
        self.register_buffer("weight_nf4", packed)
        self.register_buffer("scale", torch.zeros(out_features, width // NF4_BLOCK).half())
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.kernel: Callable[[Tensor], Tensor] | None = None

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers, ``[N, K]`` in ``dtype``."""
        table = _table(self.weight_nf4.device)
        # Both values of a byte in one look-up.
        pairs = torch.stack((table.repeat_interleave(16), table.repeat(16)), dim=1)
        values = F.embedding(self.weight_nf4.int(), pairs).view(*self.scale.shape, NF4_BLOCK)
        weight = (values * self.scale[..., None].float()).to(dtype)
        return weight.view(self.out_features, -1)[:, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in ``x``'s dtype."""
        out = F.linear(x, self.dequantized(x.dtype)) if self.kernel is None else self.kernel(x)
        return out if self.bias is None else out + self.bias


@cache
def _table(device: torch.device) -> Tensor:
    """The values on ``device``; copied there once, since a CUDA graph cannot copy from the host."""
    with torch.inference_mode(False):
        return torch.tensor(NF4_VALUES, device=device)
