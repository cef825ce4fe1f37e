"""Drawing a code for each row, and the small kernels around it.

The cut to the likeliest codes needs no sorting. The winner of the race among all codes is either
inside the cut, then it is the winner among those too, or it is outside, and then so is everything
no likelier than it. So losers are struck out until a winner stands: one or two rounds on average.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from backend.engine.kernels.launch import Kernel

GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_2 = tl.constexpr(0x94D049BB133111EB)
STEP = tl.constexpr((0x9E3779B97F4A7C15 << 20) & (2**64 - 1))


@triton.jit
def _mixed(word):
    word = (word ^ (word >> 30)) * MIX_1
    word = (word ^ (word >> 27)) * MIX_2
    return word ^ (word >> 31)


@triton.jit
def _exponential(seed, step, draws):
    """The noise of ``backend.engine.noise``, draws counted from 0."""
    start = _mixed(seed.to(tl.uint64) * MIX_1 + GOLDEN) + step.to(tl.uint64) * STEP
    words = _mixed(start + (draws + 1).to(tl.uint64) * GOLDEN)
    uniform = ((words >> 41).to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    # Near 1, where the winners are, the card's logarithm is coarse: there its series, to 1e-8.
    w = 1.0 - uniform
    series = w * (1.0 + w * (0.5 + w * (1.0 / 3.0 + w * (0.25 + w * 0.2))))
    return tl.where(w < 0.03125, series, -tl.log(uniform))


# As numbers, not constants: every codebook and every place of a draw would be a kernel of its own.
@Kernel
@triton.jit(do_not_specialize=["first_draw", "codebook", "has_next", "early"])
def draw_codes(
    logits_ptr, slot_ptr, seed_ptr, step_ptr, temperature_ptr, greedy_ptr, top_p_ptr, top_k_ptr,
    penalty_ptr, window_ptr, min_step_ptr, recent_ptr, codes_ptr, embedding_ptr, next_ptr,
    N, logits_stride, first_draw, codebook, next_stride, codes_limit, has_next, early,
    NP: tl.constexpr, K: tl.constexpr, W: tl.constexpr, DIM: tl.constexpr, DIM_P: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Draw one code a row and look up the next input of the fast transformer.

    Where ``early`` is 0 no kernel behind this one starts before it has ended, so whatever was
    written before is there for all that follow.

    Args:
        logits_ptr: ``[B, N]``, ``logits_stride`` apart.
        slot_ptr: ``[B]`` int64; the tensors of ``SlotState`` below are ``[slots]``.
        recent_ptr: ``[slots, K, W]`` int64, newest last; ``window`` of them count.
        codes_ptr: ``[B, K]`` int64; column ``codebook`` is written.
        embedding_ptr: ``[num_codes, DIM]``; the drawn code's row goes to ``next_ptr``, that of code
            ``codes_limit - 1`` for the end. Nothing does where ``has_next`` is 0.
        first_draw: Counter of this codebook's first noise value inside a frame.
    """
    if PDL:
        if early != 0:
            gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    slot = tl.load(slot_ptr + row)
    offs = tl.arange(0, NP)
    is_code = offs < N
    logits = tl.load(logits_ptr + row * logits_stride + offs, mask=is_code, other=0.0)
    logits = logits.to(tl.float32)
    penalty = tl.load(penalty_ptr + slot)
    if penalty != 1.0:
        repeated = offs < 0
        recent = recent_ptr + (slot * K + codebook) * W
        for age in range(tl.load(window_ptr + slot)):
            repeated = repeated | (offs == tl.load(recent + W - 1 - age))
        weakened = tl.where(logits < 0, logits * penalty, logits / penalty)
        logits = tl.where(repeated, weakened, logits)
    if codebook == 0:  # the last one means the end, which may not come yet
        is_early = tl.load(step_ptr + slot) < tl.load(min_step_ptr + slot)
        is_code = is_code & ((offs < N - 1) | (is_early == 0))
    logits = tl.where(is_code, logits, float("-inf"))
    code = tl.argmax(logits, 0)
    if tl.load(greedy_ptr + slot) == 0:
        p = tl.exp(logits - tl.max(logits, 0))
        p = p / tl.sum(p, 0)
        noise = _exponential(tl.load(seed_ptr + slot), tl.load(step_ptr + slot), first_draw + offs)
        score = logits / tl.load(temperature_ptr + slot) - tl.log(noise)
        score = tl.where(is_code, score, float("-inf"))
        top_p, top_k = tl.load(top_p_ptr + slot), tl.load(top_k_ptr + slot)
        code = tl.argmax(score, 0)
        is_inside = (top_p > 1.0) & (top_k >= N)
        while is_inside == 0:
            p_here = tl.sum(tl.where(offs == code, p, 0.0), 0)
            above = (p > p_here) | ((p == p_here) & (offs < code))
            rank = tl.sum(above.to(tl.int32), 0)
            mass = tl.sum(tl.where(above | (offs == code), p, 0.0), 0)
            is_inside = ((mass <= top_p) & (rank < top_k)) | (rank == 0)
            score = tl.where(above, score, float("-inf"))
            if is_inside == 0:
                code = tl.argmax(score, 0)
    tl.store(codes_ptr + row * K + codebook, code.to(tl.int64))
    if has_next != 0:
        offs_d = tl.arange(0, DIM_P)
        known = tl.minimum(code, codes_limit - 1).to(tl.int64)
        value = tl.load(embedding_ptr + known * DIM + offs_d, mask=offs_d < DIM, other=0.0)
        tl.store(next_ptr + row * next_stride + offs_d, value, mask=offs_d < DIM)


@Kernel
@triton.jit(do_not_specialize=["early"])
def embed_rows(
    rows_ptr, slot_ptr, token_ptr, code_ptr, out_ptr, begin, end, scale, early,
    K: tl.constexpr, CODES: tl.constexpr, DIM: tl.constexpr, DIM_P: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Input vectors ``[B, DIM]`` of the rows ``[slots, 1 + K]`` that wait in the slots.

    ``early`` as in ``draw_codes``.
    """
    if PDL:
        if early != 0:
            gdc_launch_dependents()
        gdc_wait()
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    row = tl.program_id(0)
    rows = rows_ptr + tl.load(slot_ptr + row) * (1 + K)
    offs = tl.arange(0, DIM_P)
    mask = offs < DIM
    token = tl.load(rows)
    text = tl.load(token_ptr + token * DIM + offs, mask=mask, other=0.0)
    codes = tl.zeros([DIM_P], tl.float32)
    for k in tl.static_range(K):
        place = (tl.load(rows + 1 + k) + k * CODES) * DIM
        codes += tl.load(code_ptr + place + offs, mask=mask, other=0.0).to(tl.float32)
    audio = (text + codes.to(DTYPE)).to(DTYPE)
    audio = (audio.to(tl.float32) / scale).to(DTYPE)
    is_audio = (token >= begin) & (token < end)
    tl.store(out_ptr + row * DIM + offs, tl.where(is_audio, audio, text), mask=mask)


@Kernel
@triton.jit
def spread_rows(
    x_ptr, out_ptr, out_stride, DIM: tl.constexpr, DIM_P: tl.constexpr, PDL: tl.constexpr
):
    """Copy packed rows ``[B, DIM]`` to rows that are ``out_stride`` apart."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, offs = tl.program_id(0), tl.arange(0, DIM_P)
    mask = offs < DIM
    x = tl.load(x_ptr + row * DIM + offs, mask=mask, other=0.0)
    tl.store(out_ptr + row * out_stride + offs, x, mask=mask)


@Kernel
@triton.jit
def finish_frame(
    codes_ptr, landing_ptr, slot_ptr, pending_ptr, recent_ptr, length_ptr, step_ptr, begin, end,
    scratch, K: tl.constexpr, KP: tl.constexpr, W: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Leave the drawn frame in its slot, where the next step reads it, and in the host's memory.

    A slot whose sequence ends stays as it was, but for its count of steps.

    Args:
        landing_ptr: ``[B, K]`` int64, pinned, so that no copy has to follow the step.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    slot = tl.load(slot_ptr + row)
    offs = tl.arange(0, KP)
    mask = offs < K
    codes = tl.load(codes_ptr + row * K + offs, mask=mask, other=0)
    tl.store(landing_ptr + row * K + offs, codes, mask=mask)
    first = tl.load(codes_ptr + row * K)
    goes_on = first < end
    pending = pending_ptr + slot * (1 + K)
    tl.store(pending, first + begin, mask=goes_on)
    tl.store(pending + 1 + offs, codes, mask=mask & goes_on)
    ages = tl.arange(0, W)
    recent = recent_ptr + (slot * K + offs)[:, None] * W + ages[None, :]
    is_kept = mask[:, None] & (ages < W - 1)[None, :]
    older = tl.load(recent + 1, mask=is_kept, other=0)
    tl.debug_barrier()
    newest = tl.where((ages == W - 1)[None, :], codes[:, None], older)
    tl.store(recent, newest, mask=mask[:, None] & goes_on)
    tl.store(step_ptr + slot, tl.load(step_ptr + slot) + 1)
    length = tl.load(length_ptr + slot) + goes_on.to(tl.int64)
    tl.store(length_ptr + slot, tl.where(slot == scratch, 0, length))
