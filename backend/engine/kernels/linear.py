"""Linear layers of one decode step: a few rows of activations against a whole weight matrix.

Each program owns a few output features. Before anything else it asks for its part of the weights;
only then does it wait for the kernel before it (programmatic dependent launch), so that the
weights of one layer stream in while the layer before still computes. The norm in front, the gate
and the residual behind are part of the same kernel. All sums are float32 and run in one order that
does not depend on the number of rows.

Weights are ``[N, K]`` row-major in the activations' type, or int8 with one float32 scale a row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from backend.engine.kernels.launch import Kernel
from backend.engine.kernels.nf4 import nf4_weights


@Kernel
@triton.jit
def few_rows_linear(
    x_ptr, norm_ptr, w_ptr, w2_ptr, scale_ptr, scale2_ptr, bias_ptr, res_ptr, out_ptr,
    N, x_stride, out_stride, eps,
    K: tl.constexpr, KP: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_GATE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RES: tl.constexpr, IS_INT8: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """``out[m] = (res[m] +) gate(norm(x[m]) @ w.T)`` for ``M`` rows; the weights stay in registers.

    Args:
        x_ptr: ``[M, K]`` activations, ``x_stride`` apart.
        norm_ptr: ``[K]`` weight of the RMS norm, read if ``HAS_NORM``.
        w_ptr: ``[N, K]``; with ``HAS_GATE`` the gate (w1), and ``w2_ptr`` the other factor (w3).
        scale_ptr: ``[N]`` float32 scales of int8 rows; ``scale2_ptr`` those of ``w2_ptr``.
        bias_ptr: ``[N]``, read if ``HAS_BIAS``.
        res_ptr: ``[M, N]`` added at the end if ``HAS_RES``; may be ``out_ptr``.
        out_ptr: ``[M, N]``, ``out_stride`` apart.
        KP: ``K`` rounded up to a power of two.
        M: 1 or 2.
    """
    if PDL:
        gdc_launch_dependents()
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, KP)
    mask_k = offs_k < K
    mask_n = offs_n < N
    places = offs_n[:, None].to(tl.int64) * K + offs_k[None, :]
    mask = mask_n[:, None] & mask_k[None, :]
    w = tl.load(w_ptr + places, mask=mask, other=0)
    w2 = w
    if HAS_GATE:
        w2 = tl.load(w2_ptr + places, mask=mask, other=0)
    scale = offs_n.to(tl.float32)
    scale2 = scale
    if IS_INT8:
        scale = tl.load(scale_ptr + offs_n, mask=mask_n, other=0.0)
        if HAS_GATE:
            scale2 = tl.load(scale2_ptr + offs_n, mask=mask_n, other=0.0)
    norm = offs_k.to(DTYPE)
    if HAS_NORM:
        norm = tl.load(norm_ptr + offs_k, mask=mask_k, other=0.0)
    if PDL:
        gdc_wait()
    # all rows are asked for before any is used
    x = tl.load(x_ptr + offs_k, mask=mask_k, other=0.0)
    x_next = x
    if M == 2:
        x_next = tl.load(x_ptr + x_stride + offs_k, mask=mask_k, other=0.0)
    for m in tl.static_range(M):
        if m == 1:
            x = x_next
        if HAS_NORM:
            wide = x.to(tl.float32)
            root = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
            x = ((wide * root).to(DTYPE) * norm).to(DTYPE)
        wide = x.to(tl.float32)[None, :]
        y = tl.sum(w.to(tl.float32) * wide, 1)
        if IS_INT8:
            y = y * scale
        if HAS_BIAS:
            y += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)
        y = y.to(DTYPE)
        if HAS_GATE:
            other = tl.sum(w2.to(tl.float32) * wide, 1)
            if IS_INT8:
                other = other * scale2
            gate = y.to(tl.float32)
            y = ((gate * tl.sigmoid(gate)).to(DTYPE) * other.to(DTYPE)).to(DTYPE)
        if HAS_RES:
            y = (tl.load(res_ptr + m * out_stride + offs_n, mask=mask_n, other=0.0) + y).to(DTYPE)
        tl.store(out_ptr + m * out_stride + offs_n, y, mask=mask_n)


@triton.jit
def _prefetch(
    ptr, N, first_row, first, K: tl.constexpr, SHARE: tl.constexpr, BLOCK_N: tl.constexpr,
    LINES: tl.constexpr,
):  # fmt: skip
    """Ask for ``[BLOCK_N, SHARE]`` weights to come to the L2 cache, 128 bytes at a time."""
    LINE: tl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth
    rows = tl.minimum(first_row + tl.arange(0, BLOCK_N), N - 1)
    starts = first + tl.minimum(tl.arange(0, LINES) * LINE, SHARE - 1)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l",
        [ptr + rows[:, None].to(tl.int64) * K + starts[None, :]], tl.int32, False, 1,
    )  # fmt: skip


@Kernel
@triton.jit(do_not_specialize=["M"])
def many_rows_linear(
    x_ptr, w_ptr, w2_ptr, scale_ptr, scale2_ptr, bias_ptr, out_ptr,
    M, N, x_stride, out_stride, split_stride,
    K: tl.constexpr, LINES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr, HAS_GATE: tl.constexpr,
    HAS_BIAS: tl.constexpr, IS_INT8: tl.constexpr, IS_NF4: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As ``few_rows_linear`` for more rows, on the matrix units, without norm.

    With ``SPLIT_K`` programs to a sum, each writes its part; ``norm_rows`` adds them up.

    Args:
        out_ptr: ``[SPLIT_K, M, N]``, ``split_stride`` and ``out_stride`` apart; float32 where
            parts are meant.
        K: A multiple of ``SPLIT_K * BLOCK_K``.
        LINES: Lines of 128 bytes in a program's part of a row of weights, rounded up to a power of
            two.
        w_ptr: With ``IS_NF4`` as in ``kernels.nf4``.
    """
    STORED: tl.constexpr = K // 2 if IS_NF4 else K
    OWN: tl.constexpr = STORED // SPLIT_K
    if PDL:
        gdc_launch_dependents()
        row, own = tl.program_id(0) * BLOCK_N, tl.program_id(2) * OWN
        _prefetch(w_ptr, N, row, own, STORED, OWN, BLOCK_N, LINES)
        if HAS_GATE:
            _prefetch(w2_ptr, N, row, own, STORED, OWN, BLOCK_N, LINES)
        gdc_wait()
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    OUT: tl.constexpr = out_ptr.dtype.element_ty
    SHARE: tl.constexpr = K // SPLIT_K
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(2) * SHARE
    mask_n, mask_m = offs_n < N, offs_m < M
    x_rows = x_ptr + offs_m.to(tl.int64)[:, None] * x_stride
    rows_n = tl.minimum(offs_n, N - 1).to(tl.int64)
    w_rows = rows_n[:, None] * K
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc2 = acc
    for start in range(0, SHARE, BLOCK_K):
        offs_k = first + start + tl.arange(0, BLOCK_K)
        at = first + start
        if IS_NF4:
            w = nf4_weights(w_ptr, scale_ptr, rows_n, at, K, BLOCK_K, DTYPE)
        else:
            w = tl.load(w_ptr + w_rows + offs_k[None, :])
        x = tl.load(x_rows + offs_k[None, :], mask=mask_m[:, None], other=0.0)
        acc = tl.dot(x, tl.trans(w.to(DTYPE)), acc, input_precision="ieee")
        if HAS_GATE:
            if IS_NF4:
                w2 = nf4_weights(w2_ptr, scale2_ptr, rows_n, at, K, BLOCK_K, DTYPE)
            else:
                w2 = tl.load(w2_ptr + w_rows + offs_k[None, :])
            acc2 = tl.dot(x, tl.trans(w2.to(DTYPE)), acc2, input_precision="ieee")
    if IS_INT8:
        acc = acc * tl.load(scale_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
        if HAS_GATE:
            acc2 = acc2 * tl.load(scale2_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    if HAS_GATE:
        gate = acc.to(DTYPE).to(tl.float32)
        acc = ((gate * tl.sigmoid(gate)).to(DTYPE) * acc2.to(DTYPE)).to(tl.float32)
    out = out_ptr + tl.program_id(2).to(tl.int64) * split_stride
    places = offs_m.to(tl.int64)[:, None] * out_stride + offs_n[None, :]
    tl.store(out + places, acc.to(OUT), mask=mask_m[:, None] & mask_n[None, :])


@Kernel
@triton.jit
def norm_rows(
    x_ptr, part_ptr, norm_ptr, out_ptr, x_stride, part_stride, split_stride, eps,
    K: tl.constexpr, KP: tl.constexpr, SPLIT_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Add the parts of a sum to ``[M, K]`` rows, then RMS-norm them into packed ones.

    Args:
        x_ptr: Rows, ``x_stride`` apart; the sums are written back.
        part_ptr: ``[SPLIT_K, M, K]`` float32; not read if ``SPLIT_K`` is 0.
    """
    if PDL:
        gdc_launch_dependents()
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    row, offs = tl.program_id(0), tl.arange(0, KP)
    mask = offs < K
    norm = tl.load(norm_ptr + offs, mask=mask, other=0.0)
    if PDL:
        gdc_wait()
    x = tl.load(x_ptr + row * x_stride + offs, mask=mask, other=0.0)
    if SPLIT_K > 0:
        part = part_ptr + row * part_stride + offs
        added = tl.load(part, mask=mask, other=0.0)
        for split in tl.static_range(1, SPLIT_K):
            added += tl.load(part + split * split_stride, mask=mask, other=0.0)
        x = (x + added.to(DTYPE)).to(DTYPE)
        tl.store(x_ptr + row * x_stride + offs, x, mask=mask)
    wide = x.to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    tl.store(out_ptr + row * K + offs, ((wide * root).to(DTYPE) * norm).to(DTYPE), mask=mask)
