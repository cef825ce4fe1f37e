"""The small kernels: codes to latents, convolutions of single channels, the samples."""

from __future__ import annotations

import triton
import triton.language as tl

from backend.models.codec.fused.kernels.pieces import carry_past


@triton.jit(do_not_specialize=["F"], do_not_specialize_on_alignment=["codes_ptr"])
def look_up_kernel(
    codes_ptr, last_ptr, first_ptr, table_ptr, weight_ptr, bias_ptr, out_ptr, squares_ptr, F, N,
    NUM_BOOKS: tl.constexpr, WIDTH: tl.constexpr, KP: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The entries of one frame's codes, side by side, times the projection of all codebooks.

    Args:
        codes_ptr: ``[B, NUM_BOOKS, F]`` int64; codes beyond ``last_ptr [NUM_BOOKS]`` mean the last.
        first_ptr: ``[NUM_BOOKS]`` int64, first row of each codebook in ``table_ptr [.., WIDTH]``.
        weight_ptr: ``[N, NUM_BOOKS * WIDTH]`` float32.
        out_ptr: ``[B, F, N]``.
        squares_ptr: ``[B * F, N / 16]`` float32, sums of squares of 16 neighbors.
        KP: ``NUM_BOOKS * WIDTH`` rounded up to a power of two.
    """
    K: tl.constexpr = NUM_BOOKS * WIDTH
    stream, frame = tl.program_id(0) // F, tl.program_id(0) % F
    k = tl.arange(0, KP)
    book = tl.minimum(k // WIDTH, NUM_BOOKS - 1)
    code = tl.load(codes_ptr + (stream * NUM_BOOKS + book) * F + frame)
    code = tl.minimum(tl.maximum(code, 0), tl.load(last_ptr + book)) + tl.load(first_ptr + book)
    entries = tl.load(table_ptr + code * WIDTH + k % WIDTH, mask=k < K, other=0.0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight = tl.load(
        weight_ptr + n[:, None] * K + k[None, :],
        mask=(n < N)[:, None] & (k < K)[None, :],
        other=0.0,
    )
    y = tl.sum(weight * entries[None, :], 1) + tl.load(bias_ptr + n, mask=n < N, other=0.0)
    tl.store(out_ptr + tl.program_id(0) * N + n, y.to(out_ptr.dtype.element_ty), mask=n < N)
    squares = tl.sum(tl.reshape(y * y, [BLOCK_N // 16, 16]), 1)
    part = tl.program_id(1) * (BLOCK_N // 16) + tl.arange(0, BLOCK_N // 16)
    tl.store(squares_ptr + tl.program_id(0) * (N // 16) + part, squares, mask=part < N // 16)


@triton.jit(
    do_not_specialize=["M", "T", "save_step", "save_at", "save_count", "num_chunks"],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr"],
)
def depthwise_kernel(
    source_ptr, weight_ptr, bias_ptr, norm_weight_ptr, norm_bias_ptr, out_ptr, pool_ptr, rows_ptr,
    lengths_ptr, M, T, source_batch, eps, pool_stride, save_step, save_at, save_count, num_chunks,
    C: tl.constexpr, CP: tl.constexpr, TAPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One row of ``layer_norm(conv(source))``, each channel by itself.

    Args:
        source_ptr: Signal, its head of ``TAPS - 1`` rows first.
        weight_ptr: ``[TAPS, C]``.
        out_ptr: ``[B, T, C]``.
        CP: ``C`` rounded up to a power of two.
    """
    m = tl.program_id(0)
    if m >= M:
        carry_past(
            m - M, source_ptr, source_batch, save_step, source_ptr, 0, pool_ptr, pool_stride,
            rows_ptr, lengths_ptr, save_at, save_count, 0, 0, num_chunks, CHUNK,
        )  # fmt: skip
    else:
        c = tl.arange(0, CP)
        mask = c < C
        start = source_ptr + (m // T) * source_batch + (m % T) * C
        y = tl.load(bias_ptr + c, mask=mask, other=0.0).to(tl.float32)
        for tap in tl.static_range(TAPS):
            x = tl.load(start + tap * C + c, mask=mask, other=0.0).to(tl.float32)
            y += x * tl.load(weight_ptr + tap * C + c, mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(y, 0) / C
        centered = tl.where(mask, y - mean, 0.0)
        y = centered * tl.rsqrt(tl.sum(centered * centered, 0) / C + eps)
        y = y * tl.load(norm_weight_ptr + c, mask=mask, other=0.0).to(tl.float32)
        y += tl.load(norm_bias_ptr + c, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + m * C + c, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(
    do_not_specialize=["M", "T", "save_step", "save_at", "save_count", "num_tiles", "num_chunks"],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr"],
)
def sound_kernel(
    source_ptr, weight_ptr, bias_ptr, samples_ptr, pool_ptr, rows_ptr, lengths_ptr,
    positions_ptr, M, T, source_batch, pool_stride, save_step, save_at, save_count, num_tiles,
    num_chunks, C: tl.constexpr, CP: tl.constexpr, TAPS: tl.constexpr, BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """``tanh`` of the convolution that makes samples; counts the frames of each stream.

    Args:
        source_ptr: Signal, its head of ``TAPS - 1`` rows first.
        weight_ptr: ``[TAPS * C]`` float32.
        samples_ptr: ``[B, T]`` float32.
        positions_ptr: int64 by row.
    """
    program = tl.program_id(0)
    if program >= num_tiles:
        copy = program - num_tiles
        carry_past(
            copy, source_ptr, source_batch, save_step, source_ptr, 0, pool_ptr, pool_stride,
            rows_ptr, lengths_ptr, save_at, save_count, 0, 0, num_chunks, CHUNK,
        )  # fmt: skip
        if copy % num_chunks == 0:
            count = positions_ptr + tl.load(rows_ptr + copy // num_chunks)
            tl.store(count, tl.load(count) + tl.load(lengths_ptr + copy // num_chunks))
    else:
        m = program * BLOCK_M + tl.arange(0, BLOCK_M)
        place = tl.minimum(m, M - 1)
        rows = source_ptr + ((place // T) * source_batch + (place % T) * C)[:, None]
        c = tl.arange(0, CP)
        mask = c < C
        y = tl.zeros([BLOCK_M], tl.float32) + tl.load(bias_ptr)
        for tap in tl.static_range(TAPS):
            x = tl.load(rows + tap * C + c[None, :], mask=mask[None, :], other=0.0).to(tl.float32)
            w = tl.load(weight_ptr + tap * C + c, mask=mask, other=0.0).to(tl.float32)
            y += tl.sum(x * w[None, :], 1)
        y = 1.0 - 2.0 / (tl.exp(2.0 * y) + 1.0)
        tl.store(samples_ptr + m, y, mask=m < M)
