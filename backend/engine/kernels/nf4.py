"""NF4 weights inside a product: two codes a byte, a scale a block of 64.

A code's value is chosen among the 16 by its bits, in registers: looking it up in memory took five
times as long.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl

from backend.models.quantized_linear import NF4_VALUES

V = tl.constexpr(NF4_VALUES)


@triton.jit
def _one_of_four(code, first: tl.constexpr):
    """Value ``first`` + the lowest two bits of ``code``."""
    is_odd = (code & 1) != 0
    low = tl.where(is_odd, V[first + 1], V[first])
    high = tl.where(is_odd, V[first + 3], V[first + 2])
    return tl.where((code & 2) != 0, high, low)


@triton.jit
def nf4_values(code):
    """Values float32 of codes 0..15."""
    has_4 = (code & 4) != 0
    low = tl.where(has_4, _one_of_four(code, 4), _one_of_four(code, 0))
    high = tl.where(has_4, _one_of_four(code, 12), _one_of_four(code, 8))
    return tl.where((code & 8) != 0, high, low)


@triton.jit
def nf4_weights(
    w_ptr, scale_ptr, rows, start, K: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr
):
    """Load the weights ``[N, BLOCK_K]`` of ``rows [N]`` from input ``start`` on.

    Args:
        w_ptr: ``[N, K / 2]`` uint8; the first of two codes in the upper half.
        scale_ptr: ``[N, K / 64]``; ``BLOCK_K`` is 64, so a row has one.
    """
    halves = tl.arange(0, BLOCK_K // 2)
    pairs = tl.load(w_ptr + rows[:, None] * (K // 2) + start // 2 + halves[None, :]).to(tl.int32)
    scale = tl.load(scale_ptr + rows * (K // 64) + start // 64).to(tl.float32)[:, None]
    high = (nf4_values(pairs >> 4) * scale).to(DTYPE)
    low = (nf4_values(pairs) * scale).to(DTYPE)
    return tl.interleave(high, low)
