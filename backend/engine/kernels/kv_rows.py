"""Rows of the key/value store, in the network's number format or in 8 or 4 bits with a scale each.

A row is one head of one position. With fewer bits it is stored as integers around zero, rounded by
the row's own largest number; two numbers of 4 bits share a byte, the first in the lower half.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read_rows(ptr, rows, is_there, D: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """Load ``[R, D]`` numbers of the rows ``rows [R]``; integers that want their scale if < 16."""
    if BITS == 4:
        halves = tl.arange(0, D // 2)
        places = rows[:, None] * (D // 2) + halves[None, :]
        pairs = tl.load(ptr + places, mask=is_there[:, None], other=0).to(tl.int32)
        x = tl.interleave((pairs & 15) - 8, (pairs >> 4) - 8).to(DTYPE)
    else:
        places = rows[:, None] * D + tl.arange(0, D)[None, :]
        x = tl.load(ptr + places, mask=is_there[:, None], other=0).to(DTYPE)
    return x


@triton.jit
def read_scales(ptr, rows, is_there):
    """Load the scales ``[R]`` of rows, float32."""
    return tl.load(ptr + rows, mask=is_there, other=0.0).to(tl.float32)


@triton.jit
def write_rows(ptr, scale_ptr, rows, x, D: tl.constexpr, BITS: tl.constexpr):
    """Store ``x [R, D]`` float32 in the rows ``rows [R]``."""
    if BITS == 16:
        places = rows[:, None] * D + tl.arange(0, D)[None, :]
        tl.store(ptr + places, x.to(ptr.dtype.element_ty))
    else:
        MOST: tl.constexpr = 127 if BITS == 8 else 7
        scale = (tl.max(tl.abs(x), 1) / MOST).to(tl.float16)
        wide = scale.to(tl.float32)
        steps = tl.floor(x / tl.where(wide > 0.0, wide, 1.0)[:, None] + 0.5)
        codes = tl.minimum(tl.maximum(steps, -MOST), MOST).to(tl.int32)
        tl.store(scale_ptr + rows, scale)
        if BITS == 8:
            places = rows[:, None] * D + tl.arange(0, D)[None, :]
            tl.store(ptr + places, codes.to(tl.int8))
        else:
            low, high = tl.split(tl.reshape(codes, [x.shape[0], D // 2, 2]))
            places = rows[:, None] * (D // 2) + tl.arange(0, D // 2)[None, :]
            tl.store(ptr + places, ((low + 8) | ((high + 8) << 4)).to(tl.uint8))
