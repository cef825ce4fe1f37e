"""Attention within a window, over a ring of past positions and the new ones."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _turned(base, row_stride, index, is_new, turns_ptr, position, num_turns, D: tl.constexpr):
    """Load heads ``[R, D]`` and rotate them; the even and the odd channels ``[R, D / 2]`` apart."""
    DTYPE: tl.constexpr = base.dtype.element_ty
    half = tl.arange(0, D // 2)[None, :]
    heads = base + (index * row_stride)[:, None] + 2 * half
    mask = is_new[:, None]
    even = tl.load(heads, mask=mask, other=0.0).to(tl.float32)
    odd = tl.load(heads + 1, mask=mask, other=0.0).to(tl.float32)
    turn = turns_ptr + (tl.minimum(position + index, num_turns - 1) * D)[:, None] + 2 * half
    cos, sin = tl.load(turn), tl.load(turn + 1)
    return (even * cos - odd * sin).to(DTYPE), (odd * cos + even * sin).to(DTYPE)


@triton.jit
def _met(acc, total, peak, q_even, q_odd, k_even, k_odd, v, seen, scale, PRECISION: tl.constexpr):
    """Add one run of keys to the running softmax."""
    scores = tl.dot(q_even, tl.trans(k_even), input_precision=PRECISION)
    scores = tl.dot(q_odd, tl.trans(k_odd), scores, input_precision=PRECISION)
    scores = tl.where(seen, scores * scale, -1e30)
    higher = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp(scores - higher[:, None])
    fade = tl.exp(peak - higher)
    total = total * fade + tl.sum(weights, 1)
    acc = acc * fade[:, None]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, total, higher


@triton.jit(
    do_not_specialize=["F", "num_turns", "layer_offset"],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr"],
)
def attend_kernel(
    qkv_ptr, rings_ptr, turns_ptr, rows_ptr, lengths_ptr, positions_ptr, out_ptr,
    F, num_heads, num_turns, window, row_stride, kind_stride, layer_offset, scale,
    D: tl.constexpr, RING: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All new positions of one stream and head; a program reads the ring, then renews it.

    Args:
        qkv_ptr: ``[B, F, 3, H, D]``.
        rings_ptr: ``[rows, 2, L, H, RING, D]``: streams ``row_stride`` apart, keys and values
            ``kind_stride``; the layer begins at ``layer_offset``.
        turns_ptr: ``[num_turns, D / 2, 2]`` float32.
        out_ptr: ``[B, F, H * D]``.
    """
    stream, head = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows_ptr + stream)
    frames = tl.load(lengths_ptr + stream).to(tl.int32)
    position = tl.load(positions_ptr + row).to(tl.int32)
    width = num_heads * D
    base = qkv_ptr + stream * F * 3 * width + head * D
    keys = rings_ptr + row * row_stride + layer_offset + head * RING * D
    values = keys + kind_stride
    half, whole = tl.arange(0, D // 2)[None, :], tl.arange(0, D)[None, :]
    for q_start in range(0, F, BLOCK_Q):
        q_index = q_start + tl.arange(0, BLOCK_Q)
        is_query = q_index < F
        q_even, q_odd = _turned(base, 3 * width, q_index, is_query, turns_ptr, position,
                                num_turns, D)  # fmt: skip
        acc = tl.zeros([BLOCK_Q, D], tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)
        peak = tl.full([BLOCK_Q], -1e30, tl.float32)
        for slot_start in range(0, RING, BLOCK_K):
            slot = slot_start + tl.arange(0, BLOCK_K)
            # the newest position before the new ones that belongs in this entry
            past = position - 1 - ((position - 1 - slot + RING) & (RING - 1))
            distance = position + q_index[:, None] - past[None, :]
            seen = (distance < window) & (past >= 0)[None, :]
            k_rows = keys + (slot * D)[:, None] + half
            v = tl.load(values + (slot * D)[:, None] + whole)
            k_even, k_odd = tl.load(k_rows), tl.load(k_rows + D // 2)
            acc, total, peak = _met(acc, total, peak, q_even, q_odd, k_even, k_odd, v, seen,
                                    scale, PRECISION)  # fmt: skip
        first = tl.maximum(q_start - window + 1, 0) // BLOCK_N * BLOCK_N
        for k_start in range(first, tl.minimum(q_start + BLOCK_Q, F), BLOCK_N):
            k_index = k_start + tl.arange(0, BLOCK_N)
            is_key = k_index < F
            k_even, k_odd = _turned(base + width, 3 * width, k_index, is_key, turns_ptr,
                                    position, num_turns, D)  # fmt: skip
            distance = q_index[:, None] - k_index[None, :]
            seen = (distance >= 0) & (distance < window)
            v_rows = base + 2 * width + (k_index * 3 * width)[:, None] + whole
            v = tl.load(v_rows, mask=is_key[:, None], other=0.0)
            acc, total, peak = _met(acc, total, peak, q_even, q_odd, k_even, k_odd, v, seen,
                                    scale, PRECISION)  # fmt: skip
        out_rows = out_ptr + (stream * F * width + head * D + q_index * width)[:, None] + whole
        found = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_rows, found, mask=is_query[:, None])
    tl.debug_barrier()  # every thread has read the ring
    for start in range(tl.maximum(frames - RING, 0), frames, BLOCK_N):
        index = start + tl.arange(0, BLOCK_N)
        is_new = index < frames
        k_even, k_odd = _turned(base + width, 3 * width, index, is_new, turns_ptr, position,
                                num_turns, D)  # fmt: skip
        slot = ((position + index) & (RING - 1))[:, None] * D
        tl.store(keys + slot + half, k_even, mask=is_new[:, None])
        tl.store(keys + slot + D // 2 + half, k_odd, mask=is_new[:, None])
        v = tl.load(base + 2 * width + (index * 3 * width)[:, None] + whole,
                    mask=is_new[:, None], other=0.0)  # fmt: skip
        tl.store(values + slot + whole, v, mask=is_new[:, None])
