"""A whole residual unit: two convolutions with a snake between, the sum, and the next snake."""

from __future__ import annotations

import triton
import triton.language as tl

from backend.models.codec.fused.kernels.pieces import carry_past, rounded, snake_of


@triton.jit
def _inner(
    acc, bias_ptr, alpha_ptr, inverse_ptr, columns, PRECISION: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    acc += tl.load(bias_ptr + columns)[None, :]
    alpha, inverse = tl.load(alpha_ptr + columns), tl.load(inverse_ptr + columns)
    return rounded(snake_of(acc, alpha[None, :], inverse[None, :]), PRECISION).to(DTYPE)


@triton.jit
def _finish(
    acc, columns, bias_ptr, x_rows, waved_rows, alpha_ptr, inverse_ptr, mask, keeps_x,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    acc += tl.load(bias_ptr + columns)[None, :]
    acc += tl.load(x_rows + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    # a mask, not two kernels: each takes seconds to compile
    tl.store(x_rows + columns[None, :], acc.to(DTYPE), mask=mask & (keeps_x != 0))
    alpha, inverse = tl.load(alpha_ptr + columns), tl.load(inverse_ptr + columns)
    waved = rounded(snake_of(acc, alpha[None, :], inverse[None, :]), PRECISION)
    tl.store(waved_rows + columns[None, :], waved.to(DTYPE), mask=mask)


@triton.jit(
    do_not_specialize=[
        "M", "T", "keeps_x", "save_step", "save_at", "save_count", "load_at", "load_count",
        "num_tiles", "num_chunks",
    ],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr"],
)  # fmt: skip
def unit_kernel(
    source_ptr, wide_ptr, wide_bias_ptr, inner_alpha_ptr, inner_inverse_ptr, narrow_ptr,
    narrow_bias_ptr, x_ptr, waved_ptr, alpha_ptr, inverse_ptr, pool_ptr, rows_ptr, lengths_ptr,
    head_ptr, M, T, source_batch, tap_step, x_batch, waved_batch, keeps_x, pool_stride, save_step,
    save_at, save_count, load_at, load_count, num_tiles, num_chunks,
    C: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, TAPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """``x += narrow(snake(wide(source)))``, ``waved = snake(x)``; a program has all channels.

    The ``C = C1 + C2`` channels are two powers of two (or one, with ``C2`` 0), so that the matrix
    units do no more than they must. What lies between the convolutions never leaves the registers.

    Args:
        source_ptr: Signal, its head first: output ``t`` reads rows ``t``, ``t + dilation``, ...
        wide_ptr: ``[C, TAPS * C]``.
        narrow_ptr: ``[C, C]``.
        x_ptr: ``[T, C]`` a stream; changed in place if ``keeps_x`` is 1.
        tap_step: Elements from one tap to the next.
    """
    program = tl.program_id(0)
    if program >= num_tiles:
        carry_past(
            program - num_tiles, source_ptr, source_batch, save_step, head_ptr, waved_batch,
            pool_ptr, pool_stride, rows_ptr, lengths_ptr, save_at, save_count, load_at,
            load_count, num_chunks, CHUNK,
        )  # fmt: skip
    else:
        DTYPE: tl.constexpr = source_ptr.dtype.element_ty
        K: tl.constexpr = TAPS * C
        offs_m = program * BLOCK_M + tl.arange(0, BLOCK_M)
        offs_k = tl.arange(0, BLOCK_K)
        place = tl.minimum(offs_m, M - 1)
        stream, t = place // T, place % T
        rows = source_ptr + (stream * source_batch + t * C)[:, None]
        c1 = tl.arange(0, C1)
        acc1 = tl.zeros([BLOCK_M, C1], tl.float32)
        if C2 > 0:
            c2 = C1 + tl.arange(0, C2)
            acc2 = tl.zeros([BLOCK_M, C2], tl.float32)
        for step in range(K // BLOCK_K):
            tap = step // (C // BLOCK_K)
            at = tap * tap_step + (step - tap * (C // BLOCK_K)) * BLOCK_K
            a = tl.load(rows + (at + offs_k)[None, :])
            k = step * BLOCK_K + offs_k
            w1 = tl.load(wide_ptr + (c1 * K)[:, None] + k[None, :])
            acc1 = tl.dot(a, tl.trans(w1), acc1, input_precision=PRECISION)
            if C2 > 0:
                w2 = tl.load(wide_ptr + (c2 * K)[:, None] + k[None, :])
                acc2 = tl.dot(a, tl.trans(w2), acc2, input_precision=PRECISION)
        mask = (offs_m < M)[:, None]
        x_rows = x_ptr + (stream * x_batch + t * C)[:, None]
        waved_rows = waved_ptr + (stream * waved_batch + t * C)[:, None]
        h1 = _inner(acc1, wide_bias_ptr, inner_alpha_ptr, inner_inverse_ptr, c1, PRECISION,
                    DTYPE)  # fmt: skip
        w11 = tl.load(narrow_ptr + (c1 * C)[:, None] + c1[None, :])
        y1 = tl.dot(h1, tl.trans(w11), input_precision=PRECISION)
        if C2 > 0:
            h2 = _inner(acc2, wide_bias_ptr, inner_alpha_ptr, inner_inverse_ptr, c2, PRECISION,
                        DTYPE)  # fmt: skip
            w12 = tl.load(narrow_ptr + (c1 * C)[:, None] + c2[None, :])
            y1 = tl.dot(h2, tl.trans(w12), y1, input_precision=PRECISION)
        _finish(y1, c1, narrow_bias_ptr, x_rows, waved_rows, alpha_ptr, inverse_ptr, mask,
                keeps_x, PRECISION, DTYPE)  # fmt: skip
        if C2 > 0:
            w21 = tl.load(narrow_ptr + (c2 * C)[:, None] + c1[None, :])
            y2 = tl.dot(h1, tl.trans(w21), input_precision=PRECISION)
            w22 = tl.load(narrow_ptr + (c2 * C)[:, None] + c2[None, :])
            y2 = tl.dot(h2, tl.trans(w22), y2, input_precision=PRECISION)
            _finish(y2, c2, narrow_bias_ptr, x_rows, waved_rows, alpha_ptr, inverse_ptr, mask,
                    keeps_x, PRECISION, DTYPE)  # fmt: skip
