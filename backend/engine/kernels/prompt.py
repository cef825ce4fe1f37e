"""The slow transformer over the rows of prompts: a few hundred rows, of one prompt or of several.

Every sum runs in one order that depends on nothing but the row itself, so a row has the same bits
in every company. Rows that only fill up belong to slot -1.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl

from backend.engine.kernels.attention import turned
from backend.engine.kernels.kv_rows import read_rows, read_scales, write_rows
from backend.engine.kernels.launch import Kernel
from backend.engine.kernels.nf4 import nf4_weights

PLAIN = tl.constexpr(0)
INT8 = tl.constexpr(1)
NF4 = tl.constexpr(2)


@triton.jit
def _weights(
    w_ptr, scale_ptr, rows, start,
    K: tl.constexpr, BLOCK_K: tl.constexpr, FORMAT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Weights ``[N, BLOCK_K]`` from input ``start`` on; int8 ones still want their rows' scales."""
    if FORMAT == 2:
        w = nf4_weights(w_ptr, scale_ptr, rows, start, K, BLOCK_K, DTYPE)
    else:
        offs = start + tl.arange(0, BLOCK_K)
        w = tl.load(w_ptr + rows[:, None] * K + offs[None, :]).to(DTYPE)
    return w


@Kernel
@triton.jit
def prompt_embed(
    rows_ptr, token_ptr, code_ptr, out_ptr, begin, end, scale,
    K: tl.constexpr, CODES: tl.constexpr, DIM: tl.constexpr, DIM_P: tl.constexpr,
):  # fmt: skip
    """Input vectors ``[M, DIM]`` of prompt rows ``[M, 1 + K]``; see ``DualAR.embed``."""
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    row = tl.program_id(0)
    rows = rows_ptr + row * (1 + K)
    offs = tl.arange(0, DIM_P)
    mask = offs < DIM
    token = tl.load(rows)
    vector = tl.load(token_ptr + token * DIM + offs, mask=mask, other=0.0)
    if (token >= begin) & (token < end):
        codes = tl.zeros([DIM_P], tl.float32)
        for k in tl.static_range(K):
            place = (tl.load(rows + 1 + k) + k * CODES) * DIM
            codes += tl.load(code_ptr + place + offs, mask=mask, other=0.0).to(tl.float32)
        audio = (vector + codes.to(DTYPE)).to(DTYPE)
        vector = (audio.to(tl.float32) / scale).to(DTYPE)
    tl.store(out_ptr + row * DIM + offs, vector, mask=mask)


@Kernel
@triton.jit
def prompt_linear(
    x_ptr, w_ptr, w2_ptr, scale_ptr, scale2_ptr, bias_ptr, res_ptr, out_ptr, N,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr, HAS_GATE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RES: tl.constexpr,
):  # fmt: skip
    """``out[m] = (res[m] +) gate(x[m] @ w.T)``; as ``few_rows_linear`` for many rows, no norm.

    Args:
        x_ptr: ``[M, K]``, packed; ``M`` is a multiple of ``BLOCK_M``, ``K`` of ``BLOCK_K``.
        w_ptr: ``[N, K]`` in the rows' type or int8 with ``scale_ptr [N]``, or NF4.
        res_ptr: ``[M, N]`` added at the end if ``HAS_RES``; may be ``out_ptr``.
    """
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    mask_n = offs_n < N
    rows = tl.minimum(offs_n, N - 1).to(tl.int64)
    x_rows = x_ptr + offs_m[:, None] * K + tl.arange(0, BLOCK_K)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc2 = acc
    for start in range(0, K, BLOCK_K):
        x = tl.load(x_rows + start)
        w = _weights(w_ptr, scale_ptr, rows, start, K, BLOCK_K, FORMAT, DTYPE)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
        if HAS_GATE:
            w2 = _weights(w2_ptr, scale2_ptr, rows, start, K, BLOCK_K, FORMAT, DTYPE)
            acc2 = tl.dot(x, tl.trans(w2), acc2, input_precision="ieee")
    if FORMAT == 1:
        acc = acc * tl.load(scale_ptr + rows)[None, :]
        if HAS_GATE:
            acc2 = acc2 * tl.load(scale2_ptr + rows)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + rows).to(tl.float32)[None, :]
    y = acc.to(DTYPE)
    if HAS_GATE:
        gate = y.to(tl.float32)
        y = ((gate * tl.sigmoid(gate)).to(DTYPE) * acc2.to(DTYPE)).to(DTYPE)
    places = offs_m[:, None] * N + offs_n[None, :]
    if HAS_RES:
        y = (tl.load(res_ptr + places, mask=mask_n[None, :], other=0.0) + y).to(DTYPE)
    tl.store(out_ptr + places, y, mask=mask_n[None, :])


@Kernel
@triton.jit
def prompt_heads(
    qkv_ptr, q_norm_ptr, k_norm_ptr, rope_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr,
    slot_ptr, position_ptr, slot_rows, group_rows, eps,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr,
    HAS_NORM: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Normalize and rotate the heads of one group of one row; keys and values go to the store.

    Args:
        qkv_ptr: ``[M, (H + 2 G) D]``; the queries are written back.
        slot_ptr: ``[M]`` int64, -1 for rows that only fill up.
        position_ptr: ``[M]`` int64.
        HEADS: Query heads of a group rounded up to a power of two.
    """
    row, group = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slot_ptr + row)
    if slot >= 0:
        SHARE: tl.constexpr = H // G
        DTYPE: tl.constexpr = qkv_ptr.dtype.element_ty
        position = tl.load(position_ptr + row)
        angles = rope_ptr + position * D
        heads, one, offs_d = tl.arange(0, HEADS), tl.arange(0, 1), tl.arange(0, D)
        base = qkv_ptr + row.to(tl.int64) * ((H + 2 * G) * D)
        is_head = (heads < SHARE)[:, None]
        q_ptr = base + (group * SHARE + heads)[:, None] * D
        q = turned(q_ptr, q_norm_ptr, angles, is_head, eps, D, HAS_NORM)
        k_new = turned(
            base + (H + group) * D + one[:, None] * D, k_norm_ptr, angles, (one == 0)[:, None],
            eps, D, HAS_NORM,
        )  # fmt: skip
        v_new = tl.load(base + (H + G + group) * D + one[:, None] * D + offs_d[None, :])
        target = slot * slot_rows + group * group_rows + position + one
        write_rows(k_ptr, k_scale_ptr, target, k_new, D, BITS)
        write_rows(v_ptr, v_scale_ptr, target, v_new.to(tl.float32), D, BITS)
        tl.debug_barrier()  # all of a head is read before any of it is written
        tl.store(q_ptr + offs_d[None, :], q.to(DTYPE), mask=is_head)


@Kernel
@triton.jit
def prompt_attention(
    qkv_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, slot_ptr, position_ptr, out_ptr,
    slot_rows, group_rows,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Attention of ``BLOCK_Q`` rows of one slot, one head, over all that the slot holds for them.

    Args:
        qkv_ptr: ``[M, (H + 2 G) D]`` with rotated queries; the rows of a block are of one slot.
        position_ptr: ``[M]`` int64: a row sees positions up to its own; -1 in rows that fill up.
        out_ptr: ``[M, H D]``.
    """
    DTYPE: tl.constexpr = qkv_ptr.dtype.element_ty
    head = tl.program_id(1)
    offs_m = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_d, offs_t = tl.arange(0, D), tl.arange(0, BLOCK_T)
    slot = tl.load(slot_ptr + tl.program_id(0) * BLOCK_Q)
    positions = tl.load(position_ptr + offs_m)
    if slot >= 0:
        last = tl.max(positions, 0)
        wide_m = offs_m.to(tl.int64)[:, None]
        q = tl.load(qkv_ptr + wide_m * ((H + 2 * G) * D) + head * D + offs_d[None, :])
        first = slot * slot_rows + (head // (H // G)) * group_rows
        top = tl.full([BLOCK_Q], -1e30, tl.float32)
        weight = tl.zeros([BLOCK_Q], tl.float32)
        acc = tl.zeros([BLOCK_Q, D], tl.float32)
        for begin in range(0, last + 1, BLOCK_T):
            at = begin + offs_t
            is_there = at <= last
            k = read_rows(k_ptr, first + at, is_there, D, BITS, DTYPE)
            v = read_rows(v_ptr, first + at, is_there, D, BITS, DTYPE)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (1.0 / tl.sqrt(float(D)))
            if BITS < 16:
                scores = scores * read_scales(k_scale_ptr, first + at, is_there)[None, :]
            seen = at[None, :] <= positions[:, None]
            scores = tl.where(seen, scores, -1e30)
            new_top = tl.maximum(top, tl.max(scores, 1))
            shrink = tl.exp(top - new_top)
            p = tl.where(seen, tl.exp(scores - new_top[:, None]), 0.0)
            weight = weight * shrink + tl.sum(p, 1)
            if BITS < 16:
                p = p * read_scales(v_scale_ptr, first + at, is_there)[None, :]
            acc = tl.dot(p.to(DTYPE), v, acc * shrink[:, None], input_precision="ieee")
            top = new_top
        out = acc / tl.where(weight > 0.0, weight, 1.0)[:, None]
        tl.store(out_ptr + wide_m * (H * D) + head * D + offs_d[None, :], out.to(DTYPE))
