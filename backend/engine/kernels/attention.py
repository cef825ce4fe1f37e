"""Attention of one new position: head norms, rotation, cache write and softmax in one kernel.

A program owns one row and one key/value head with the query heads that share it. The new key and
value never leave the registers before they are used, so a program reads back nothing it wrote.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from backend.engine.kernels.kv_rows import read_rows, read_scales, write_rows
from backend.engine.kernels.launch import Kernel


@triton.jit
def turned(ptr, norm_ptr, rope_ptr, mask, eps, D: tl.constexpr, HAS_NORM: tl.constexpr):
    """Load heads ``[R, D]`` at ``ptr [R, 1]``, normalize and rotate them; ``[R, D]`` float32."""
    DTYPE: tl.constexpr = ptr.dtype.element_ty
    half = tl.arange(0, D // 2)[None, :]
    even = tl.load(ptr + 2 * half, mask=mask, other=0.0).to(tl.float32)
    odd = tl.load(ptr + 2 * half + 1, mask=mask, other=0.0).to(tl.float32)
    if HAS_NORM:
        scale = tl.rsqrt((tl.sum(even * even, 1) + tl.sum(odd * odd, 1)) / D + eps)[:, None]
        even = (even * scale * tl.load(norm_ptr + 2 * half).to(tl.float32)).to(DTYPE)
        odd = (odd * scale * tl.load(norm_ptr + 2 * half + 1).to(tl.float32)).to(DTYPE)
        even, odd = even.to(tl.float32), odd.to(tl.float32)
    cos, sin = tl.load(rope_ptr + 2 * half), tl.load(rope_ptr + 2 * half + 1)
    turned = tl.interleave(even * cos - odd * sin, odd * cos + even * sin)
    return turned.to(DTYPE).to(tl.float32)


# As numbers, not constants: every cut of every bound would be a kernel of its own to compile.
@Kernel
@triton.jit(do_not_specialize=["split_t", "splits"])
def slow_attention(
    qkv_ptr, q_norm_ptr, k_norm_ptr, rope_ptr, k_cache_ptr, v_cache_ptr, k_scale_ptr, v_scale_ptr,
    slot_ptr, length_ptr, out_ptr, part_ptr, qkv_stride, slot_rows, group_rows, eps,
    split_t, splits, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr,
    BLOCK_T: tl.constexpr, HAS_NORM: tl.constexpr, BITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One position a row over the cache of the row's slot.

    The cache's old positions, the lengths and the slots were there before the frame began, so they
    are read ahead of the wait for the kernel in front.

    Args:
        qkv_ptr: ``[B, (H + 2 G) D]``.
        k_cache_ptr: ``[G, R, D]`` of one layer, ``R = group_rows``, a slot's rows behind each
            other, ``slot_rows`` from slot to slot; gains position ``length``.
        k_scale_ptr: ``[G, R]`` where ``BITS`` is 8 or 4, see ``kv_rows``.
        slot_ptr: ``[B]`` int64. length_ptr: ``[slots]`` int64, positions that are there.
        out_ptr: ``[B, H D]``.
        part_ptr: ``[B, splits, H, D + 2]`` float32: sums, largest score and weight of each split,
            for ``join_splits``; written instead of ``out_ptr`` where there are several.
        HEADS: Query heads of a group rounded up to 16, the matrix unit's rows.
        split_t: Positions of a split, a multiple of ``BLOCK_T``. The split that the new position
            falls into takes it along; those behind it have nothing to do.
    """
    if PDL:
        gdc_launch_dependents()
    DTYPE: tl.constexpr = qkv_ptr.dtype.element_ty
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slot_ptr + row)
    length = tl.load(length_ptr + slot)
    SHARE: tl.constexpr = H // G
    heads = tl.arange(0, HEADS)
    is_head = (heads < SHARE)[:, None]
    offs_d = tl.arange(0, D)
    angles = rope_ptr + length * D
    start = (split * split_t).to(tl.int64)
    stop = tl.minimum(length, start + split_t)
    cache = slot * slot_rows + group * group_rows
    offs_t = start + tl.arange(0, BLOCK_T)
    seen = offs_t < stop
    k = read_rows(k_cache_ptr, cache + offs_t, seen, D, BITS, DTYPE)
    v = read_rows(v_cache_ptr, cache + offs_t, seen, D, BITS, DTYPE)
    k_scale = tl.full([BLOCK_T], 1.0, tl.float32)
    v_scale = k_scale
    if BITS < 16:
        k_scale = read_scales(k_scale_ptr, cache + offs_t, seen)
        v_scale = read_scales(v_scale_ptr, cache + offs_t, seen)
    if PDL:
        gdc_wait()
    if start <= length:
        base = qkv_ptr + row * qkv_stride
        q_ptr = base + (group * SHARE + heads)[:, None] * D
        q = turned(q_ptr, q_norm_ptr, angles, is_head, eps, D, HAS_NORM)
        q = q * (1.0 / tl.sqrt(float(D)))
        q_low = q.to(DTYPE)
        top = tl.full([HEADS], -1e30, tl.float32)
        weight = tl.zeros([HEADS], tl.float32)
        acc = tl.zeros([HEADS, D], tl.float32)
        if length < start + split_t:
            one = tl.arange(0, 1)
            k_ptr = base + (H + group) * D + one[:, None] * D
            k_new = turned(k_ptr, k_norm_ptr, angles, (one == 0)[:, None], eps, D, HAS_NORM)
            v_new = tl.load(base + (H + G + group) * D + offs_d)
            new = cache + length + one
            write_rows(k_cache_ptr, k_scale_ptr, new, k_new, D, BITS)
            v_wide = v_new.to(tl.float32)[None, :]
            write_rows(v_cache_ptr, v_scale_ptr, new, v_wide, D, BITS)
            top = tl.sum(q * k_new, 1)
            weight += 1.0
            acc += v_new.to(tl.float32)[None, :]
        scores = tl.dot(q_low, tl.trans(k), input_precision="ieee")
        if BITS < 16:
            scores = scores * k_scale[None, :]
        scores = tl.where(seen[None, :], scores, -1e30)
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp(top - new_top)
        p = tl.where(seen[None, :], tl.exp(scores - new_top[:, None]), 0.0)
        weight = weight * shrink + tl.sum(p, 1)
        if BITS < 16:
            p = p * v_scale[None, :]
        acc = tl.dot(p.to(DTYPE), v, acc * shrink[:, None], input_precision="ieee")
        top = new_top
        for begin in range(start + BLOCK_T, stop, BLOCK_T):
            next_t = begin + tl.arange(0, BLOCK_T)
            is_there = next_t < stop
            next_k = read_rows(k_cache_ptr, cache + next_t, is_there, D, BITS, DTYPE)
            next_v = read_rows(v_cache_ptr, cache + next_t, is_there, D, BITS, DTYPE)
            next_scores = tl.dot(q_low, tl.trans(next_k), input_precision="ieee")
            if BITS < 16:
                next_scores = next_scores * read_scales(
                    k_scale_ptr, cache + next_t, is_there
                )[None, :]  # fmt: skip
            next_scores = tl.where(is_there[None, :], next_scores, -1e30)
            next_top = tl.maximum(top, tl.max(next_scores, 1))
            fade = tl.exp(top - next_top)
            next_p = tl.exp(next_scores - next_top[:, None])
            weight = weight * fade + tl.sum(next_p, 1)
            if BITS < 16:
                next_p = next_p * read_scales(v_scale_ptr, cache + next_t, is_there)[None, :]
            acc = tl.dot(next_p.to(DTYPE), next_v, acc * fade[:, None], input_precision="ieee")
            top = next_top
        head = group * SHARE + heads
        if splits == 1:
            out = (acc / weight[:, None]).to(DTYPE)
            tl.store(out_ptr + row * H * D + head[:, None] * D + offs_d[None, :], out, mask=is_head)
        else:
            part = part_ptr + ((row * splits + split) * H + head) * (D + 2)
            tl.store(part[:, None] + offs_d[None, :], acc, mask=is_head)
            tl.store(part + D, top, mask=heads < SHARE)
            tl.store(part + D + 1, weight, mask=heads < SHARE)


@Kernel
@triton.jit(do_not_specialize=["split_t", "splits"])
def join_splits(
    part_ptr, slot_ptr, length_ptr, out_ptr, split_t, splits, H: tl.constexpr, D: tl.constexpr,
    SPLITS_P: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Join the splits of ``slow_attention``: one program a row and query head.

    (Letting the last split to end do it, told by a counter, took 3 us a layer longer on an H200.)

    Args:
        SPLITS_P: A power of two that is no less than ``splits``.
    """
    if PDL:
        gdc_launch_dependents()
    row, head = tl.program_id(0), tl.program_id(1)
    split, offs_d = tl.arange(0, SPLITS_P), tl.arange(0, D)
    # those behind the last one would begin behind every length
    is_used = split * split_t <= tl.load(length_ptr + tl.load(slot_ptr + row))
    part = part_ptr + ((row * splits + split) * H + head) * (D + 2)
    if PDL:
        gdc_wait()
    top = tl.load(part + D, mask=is_used, other=-1e30)
    weight = tl.load(part + D + 1, mask=is_used, other=0.0)
    acc = tl.load(part[:, None] + offs_d[None, :], mask=is_used[:, None], other=0.0)
    share = tl.exp(top - tl.max(top, 0))
    out = tl.sum(acc * share[:, None], 0) / tl.sum(weight * share, 0)
    tl.store(out_ptr + (row * H + head) * D + offs_d, out.to(out_ptr.dtype.element_ty))


@Kernel
@triton.jit
def fast_attention(
    qkv_ptr, q_norm_ptr, k_norm_ptr, rope_ptr, k_cache_ptr, v_cache_ptr, out_ptr,
    position, qkv_stride, eps,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SHARE: tl.constexpr, T: tl.constexpr,
    IS_PAIR: tl.constexpr, HAS_NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One codebook position a row, or the first two at once (``IS_PAIR``).

    The positions before were written by earlier passes. ``draw_codes`` lets nothing start before it
    has ended, so they are there and can be read ahead of the wait.

    Args:
        qkv_ptr: ``[B, (H + 2 G) D]``; with ``IS_PAIR`` ``[2 B, ...]``, a row's two positions
            behind each other.
        k_cache_ptr: ``[B, G, T, D]`` of one layer, ``T`` a power of two; gains the new positions.
        position: Position of the (first) new key.
        SHARE: Query heads of a key/value head, a power of two.
    """
    if PDL:
        gdc_launch_dependents()
    DTYPE: tl.constexpr = qkv_ptr.dtype.element_ty
    row, group = tl.program_id(0), tl.program_id(1)
    NEW: tl.constexpr = 2 if IS_PAIR else 1
    heads, one, offs_d, offs_t = (
        tl.arange(0, SHARE), tl.arange(0, 1), tl.arange(0, D), tl.arange(0, T),
    )  # fmt: skip
    cache = (row * G + group) * T * D
    places = cache + offs_t[:, None] * D + offs_d[None, :]
    old = (offs_t < position)[:, None]
    keys = tl.load(k_cache_ptr + places, mask=old, other=0.0).to(tl.float32)
    values = tl.load(v_cache_ptr + places, mask=old, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    for new in tl.static_range(NEW):
        at = position + new
        angles = rope_ptr + at * D
        base = qkv_ptr + (row * NEW + new) * qkv_stride
        k_ptr = base + (H + group) * D + one[:, None] * D
        k_new = turned(k_ptr, k_norm_ptr, angles, (one == 0)[:, None], eps, D, HAS_NORM)
        v_new = tl.load(base + (H + G + group) * D + one[:, None] * D + offs_d[None, :])
        is_new = (offs_t == at)[:, None]
        keys = tl.where(is_new, k_new, keys)
        values = tl.where(is_new, v_new.to(tl.float32), values)
        here = cache + at * D + one[:, None] * D + offs_d[None, :]
        tl.store(k_cache_ptr + here, k_new.to(DTYPE))
        tl.store(v_cache_ptr + here, v_new)
        q_ptr = base + (group * SHARE + heads)[:, None] * D
        q = turned(q_ptr, q_norm_ptr, angles, (heads >= 0)[:, None], eps, D, HAS_NORM)
        scores = tl.sum(q[:, None, :] * keys[None, :, :], 2) * (1.0 / tl.sqrt(float(D)))
        scores = tl.where((offs_t <= at)[None, :], scores, -1e30)
        p = tl.exp(scores - tl.max(scores, 1)[:, None])
        p = p / tl.sum(p, 1)[:, None]
        out = tl.sum(p[:, :, None] * values[None, :, :], 1)
        here = (row * NEW + new) * H * D + (group * SHARE + heads)[:, None] * D + offs_d[None, :]
        tl.store(out_ptr + here, out.to(DTYPE))
