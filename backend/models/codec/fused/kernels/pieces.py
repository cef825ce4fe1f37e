"""What several kernels share: the snake, and the copies of a stream's past."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def snake_of(y, alpha, inverse):
    """Give ``y + inverse * sin(alpha * y)**2`` in float32.

    The square of a sine repeats every pi, so the angle is brought into -pi/2..pi/2 (pi in two
    parts) and the square is a polynomial there: off by 2.2e-8 at most.
    """
    angle = y * alpha
    turns = (angle * 0.3183098861837907 + 12582912.0) - 12582912.0  # to the nearest whole number
    angle = angle - turns * 3.140625
    angle = angle - turns * 0.0009676535897932
    square = angle * angle
    p = square * -3.6316180285211885e-06 + 0.00013935260358266532
    p = p * square + -0.003172405296936631
    p = p * square + 0.04444318264722824
    p = p * square + -0.3333330750465393
    p = p * square + 1.0
    return y + inverse * (square * p)


@triton.jit
def rounded(x, PRECISION: tl.constexpr):
    """Give float32 values as a product is to take them.

    The matrix units of ``tf32`` cut off all but 10 bits of the mantissa, which makes every value
    smaller; so it is rounded to these bits before.
    """
    if PRECISION == "tf32":
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = bits.to(tl.float32, bitcast=True)
    return x


@triton.jit
def carry_past(
    program, source_ptr, source_batch, save_step, result_ptr, result_batch, pool_ptr, pool_stride,
    rows_ptr, lengths_ptr, save_at, save_count, load_at, load_count, num_chunks,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Leave a stream's newest inputs of ``source`` in the pool; fill the head of ``result``.

    Args:
        program: Which of the ``B * num_chunks`` programs of the copy this is.
        source_ptr: The signal that was read, its head first; streams ``source_batch`` apart.
        save_step: Elements of a frame of it.
        result_ptr: The head of the signal that is made; streams ``result_batch`` apart.
        pool_ptr: Rows of streams, ``pool_stride`` apart.
        save_at: Where the past of the source lies in a row; ``save_count`` elements, 0 for none.
        load_at: Where the past for the result lies; ``load_count`` elements, 0 for none.
    """
    stream = program // num_chunks
    offsets = (program % num_chunks) * CHUNK + tl.arange(0, CHUNK)
    row = pool_ptr + tl.load(rows_ptr + stream) * pool_stride
    frames = tl.load(lengths_ptr + stream)
    saved = offsets < save_count
    newest = source_ptr + stream * source_batch + frames * save_step
    tl.store(row + save_at + offsets, tl.load(newest + offsets, mask=saved), mask=saved)
    loaded = offsets < load_count
    past = tl.load(row + load_at + offsets, mask=loaded)
    tl.store(result_ptr + stream * result_batch + offsets, past, mask=loaded)
