"""NF4 weights inside a product: two codes a byte, a table of 16 values, a scale a block of 64."""

# pyright: reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nf4_weights(
    w_ptr, scale_ptr, table_ptr, rows, start,
    K: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Load the weights ``[N, BLOCK_K]`` of ``rows [N]`` from input ``start`` on.

    Args:
        w_ptr: ``[N, K / 2]`` uint8; the first of two codes in the upper half.
        scale_ptr: ``[N, K / 64]``; ``BLOCK_K`` is 64, so a row has one.
        table_ptr: ``[16]`` float32.
    """
    halves = tl.arange(0, BLOCK_K // 2)
    pairs = tl.load(w_ptr + rows[:, None] * (K // 2) + start // 2 + halves[None, :]).to(tl.int32)
    high = tl.load(table_ptr + (pairs >> 4))
    low = tl.load(table_ptr + (pairs & 15))
    scale = tl.load(scale_ptr + rows * (K // 64) + start // 64).to(tl.float32)
    return (tl.interleave(high, low) * scale[:, None]).to(DTYPE)
