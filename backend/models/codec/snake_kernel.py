"""The snake in one pass over memory, as a Triton kernel.

PyTorch needs four kernels (product, sine, square, sum) and as many passes over tensors of up to
96 channels per sample; here a value is read once and written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton  # pyright: ignore[reportMissingImports] - there is none for some platforms
import triton.language as tl  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1024
_MOST_VALUES = 2**31 - _BLOCK
"""The kernel counts in 32 bits."""


@triton.jit(do_not_specialize=["num_channels", "length"])
def _snake_kernel(
    x_ptr,
    alpha_ptr,
    y_ptr,
    num_values,
    num_channels,
    length,
    BLOCK: tl.constexpr,
):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < num_values
    channels = (offsets // length) % num_channels
    alpha = tl.load(alpha_ptr + channels, mask=inside, other=1.0)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    wave = tl.sin(alpha * x)
    y = x + wave * wave / (alpha + 1e-9)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """Give ``x + sin(alpha * x)**2 / alpha``, computed in float32.

    Args:
        x: ``[B, C, T]`` float16, bfloat16 or float32, fewer than 2**31 values.
        alpha: ``[1, C, 1]`` float32.

    Returns:
        As ``x``, contiguous.

    Raises:
        ValueError: ``x`` is too large.
    """
    if x.numel() >= _MOST_VALUES:
        raise ValueError(f"the snake takes fewer than 2**31 values at a time, got {x.numel()}")
    x = x.contiguous()
    y = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), _BLOCK),)
    _snake_kernel[grid](x, alpha, y, x.numel(), x.shape[1], x.shape[2], BLOCK=_BLOCK)  # pyright: ignore[reportIndexIssue]
    return y
