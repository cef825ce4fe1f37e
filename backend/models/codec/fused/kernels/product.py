"""Convolutions and linear layers as one matrix product, with all that stands around them."""

from __future__ import annotations

import triton
import triton.language as tl

from backend.models.codec.fused.kernels.pieces import carry_past, rounded, snake_of


# Every other value of these would be a kernel of its own to compile.
@triton.jit(
    do_not_specialize=[
        "M", "T", "has_gelu", "has_gamma", "has_residual", "has_plain", "has_squares", "save_step",
        "save_at", "save_count", "load_at", "load_count", "num_tiles", "num_chunks",
    ],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr"],
)  # fmt: skip
def product_kernel(
    source_ptr, weight_ptr, bias_ptr, gamma_ptr, alpha_ptr, inverse_ptr,
    residual_ptr, plain_ptr, waved_ptr, squares_in_ptr, squares_out_ptr, pool_ptr, rows_ptr,
    lengths_ptr, head_ptr,
    M, T, N, K, channels, first, source_batch, row_step, tap_step, residual_batch, plain_batch,
    waved_batch, head_batch, eps, has_gelu, has_gamma, has_residual, has_plain, has_squares,
    pool_stride, save_step, save_at, save_count, load_at, load_count, num_tiles, num_chunks,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_WAVED: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """``plain = (residual +) gamma * gelu(x @ w.T + bias)``, ``waved = snake(plain)``.

    Output ``m`` is row ``t = m % T`` of stream ``m // T``; it reads ``channels`` elements from
    ``first + t * row_step + tap * tap_step`` on for each of ``K / channels`` taps. The programs
    from ``num_tiles`` on copy pasts, see ``carry_past``.

    Args:
        source_ptr: Signal, its head first; streams ``source_batch`` elements apart.
        weight_ptr: ``[N, K]``. With ``HAS_GATE`` its rows are pairs: the result has ``N / 2``
            columns, ``silu`` of the first of a pair times the second.
        bias_ptr: ``[N]`` float32, as gamma, alpha and inverse.
        residual_ptr: Body of a signal of ``[T, N]`` a stream, as ``plain_ptr`` and ``waved_ptr``.
            It is read if ``has_residual`` is 1, ``plain`` written if ``has_plain`` is.
        squares_in_ptr: ``[M, K / 16]`` float32 sums of squares of the source, read if ``HAS_NORM``;
            ``PARTS`` is ``K / 16`` rounded up to a power of two.
        squares_out_ptr: ``[M, N / 16]``, those of ``plain``, written if ``has_squares`` is 1.
        has_gelu: A number, as ``has_gamma`` and ``has_squares``: as a constant it would be a kernel
            of its own to compile. Beside a norm, a gate or ``waved`` all three are 0.
        channels: A multiple of ``BLOCK_K``.
    """
    program = tl.program_id(0)
    if program >= num_tiles:
        carry_past(
            program - num_tiles, source_ptr, source_batch, save_step, head_ptr, head_batch,
            pool_ptr, pool_stride, rows_ptr, lengths_ptr, save_at, save_count, load_at,
            load_count, num_chunks, CHUNK,
        )  # fmt: skip
    else:
        tiles_n = tl.cdiv(N, BLOCK_N)
        offs_m = (program // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
        offs_n = (program % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
        offs_k = tl.arange(0, BLOCK_K)
        is_row = offs_m < M
        place = tl.minimum(offs_m, M - 1)
        stream, t = place // T, place % T
        x_rows = source_ptr + (stream * source_batch + first + t * row_step)[:, None]
        is_column = offs_n < N
        column = tl.minimum(offs_n, N - 1)
        w_rows = weight_ptr + (column * K)[:, None]
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        blocks = channels // BLOCK_K
        for step in range(K // BLOCK_K):
            tap = step // blocks
            x_at = tap * tap_step + (step - tap * blocks) * BLOCK_K
            x = tl.load(x_rows + (x_at + offs_k)[None, :])
            w = tl.load(w_rows + (step * BLOCK_K + offs_k)[None, :])
            acc = tl.dot(x, tl.trans(w), acc, input_precision=PRECISION)
        if HAS_NORM:
            parts = tl.arange(0, PARTS)[None, :]
            squares = tl.load(
                squares_in_ptr + (place * (K // 16))[:, None] + parts, mask=parts < K // 16,
                other=0.0,
            )  # fmt: skip
            acc = acc * tl.rsqrt(tl.sum(squares, 1) / K + eps)[:, None]
        acc += tl.load(bias_ptr + column)[None, :]
        if HAS_GATE:
            gate, other = tl.split(tl.reshape(acc, [BLOCK_M, BLOCK_N // 2, 2]))
            acc = gate * tl.sigmoid(gate) * other
            N = N // 2
            offs_n = (program % tiles_n) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
            is_column = offs_n < N
        IS_PLAIN: tl.constexpr = not (HAS_NORM or HAS_GATE or HAS_WAVED)
        if IS_PLAIN:
            if has_gelu != 0:
                acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
            if has_gamma != 0:
                acc = acc * tl.load(gamma_ptr + column)[None, :]
        mask = is_row[:, None] & is_column[None, :]
        within = t * N
        # masks, not kernels of their own: each takes a second to compile
        rows = residual_ptr + (stream * residual_batch + within)[:, None]
        is_there = mask & (has_residual != 0)
        acc += tl.load(rows + offs_n[None, :], mask=is_there, other=0.0).to(tl.float32)
        rows = plain_ptr + (stream * plain_batch + within)[:, None]
        is_wanted = mask & (has_plain != 0)
        tl.store(rows + offs_n[None, :], acc.to(plain_ptr.dtype.element_ty), mask=is_wanted)
        if IS_PLAIN:  # noqa: SIM102 - only one of the two is a constant
            if has_squares != 0:
                made = tl.sum(tl.reshape(acc * acc, [BLOCK_M, BLOCK_N // 16, 16]), 2)
                part = (program % tiles_n) * (BLOCK_N // 16) + tl.arange(0, BLOCK_N // 16)
                tl.store(squares_out_ptr + (offs_m * (N // 16))[:, None] + part[None, :], made,
                         mask=is_row[:, None] & (part < N // 16)[None, :])  # fmt: skip
        if HAS_WAVED:
            alpha = tl.load(alpha_ptr + column)[None, :]
            acc = snake_of(acc, alpha, tl.load(inverse_ptr + column)[None, :])
            acc = rounded(acc, PRECISION)
            rows = waved_ptr + (stream * waved_batch + within)[:, None]
            tl.store(rows + offs_n[None, :], acc.to(waved_ptr.dtype.element_ty), mask=mask)
