"""Noise by counting: a seed, a step and a draw's number name a random number.

No generator, no state: a frame's noise depends on nothing but ``(seed, step, index)``, so a request
draws the same codes alone, in any batch, on any device and after a restart. The integers come from
SplitMix64, whose start is itself mixed from the seed so that neighboring seeds share no stretch.

Source: the mixing constants of Steele, Lea and Flood, "Fast splittable pseudorandom number
generators" (OOPSLA 2014); the code is our own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)
MAX_DRAWS = 1 << 20
"""Numbers per step; counters of different steps do not meet."""
_FRACTION_BITS = 23
_WORD = (1 << 64) - 1


def seed_word(seed: int) -> int:
    """Fold a seed of any size into the int64 that ``exponential_noise`` takes."""
    return _signed(seed)


def exponential_noise(seeds: Tensor, steps: Tensor, num: int) -> Tensor:
    """Noise ``q ~ Exp(1)`` for one step of several sequences.

    Args:
        seeds: ``[B]`` int64.
        steps: ``[B]`` int64, 0 or more: how often the sequence drew before.
        num: Numbers per row, at most ``MAX_DRAWS``.

    Returns:
        ``[B, num]`` float32, positive and finite.

    Raises:
        ValueError: ``num`` is too large.
    """
    if num > MAX_DRAWS:
        raise ValueError(f"{num} draws a step exceed {MAX_DRAWS}")
    words = random_words(seeds, steps, num)
    fraction = _shift_right(words, 64 - _FRACTION_BITS).double()
    # The middle of each of 2 ** 23 equal stretches: never 0, never 1. The logarithm in float64,
    # rounded once, has the same bits on every device and in every batch.
    uniform = (fraction + 0.5) * 2.0**-_FRACTION_BITS
    return uniform.log().neg().float()


def exponential_noise_on_host(
    seed: int, step: int, indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Some of the numbers of ``exponential_noise``, for one sequence and without tensors.

    Args:
        seed: From ``seed_word``.
        step: 0 or more.
        indices: ``[n]``, which numbers of the step.

    Returns:
        ``[n]``, equal to ``exponential_noise(seed, step, ...)[indices]``.
    """
    start = _mix_word(seed * MIX_1 + GOLDEN) + step * MAX_DRAWS * GOLDEN
    words = (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN & _WORD)
    words += np.uint64(start & _WORD)
    words ^= words >> np.uint64(30)
    words *= np.uint64(MIX_1 & _WORD)
    words ^= words >> np.uint64(27)
    words *= np.uint64(MIX_2 & _WORD)
    words ^= words >> np.uint64(31)
    fraction = (words >> np.uint64(64 - _FRACTION_BITS)).astype(np.float64)
    return -np.log((fraction + 0.5) * 2.0**-_FRACTION_BITS).astype(np.float32)


def random_words(seeds: Tensor, steps: Tensor, num: int) -> Tensor:
    """The random 64 bits behind the noise: ``[B]`` and ``[B]`` int64 to ``[B, num]`` int64."""
    starts = _mix(seeds * MIX_1 + GOLDEN) + steps * _signed(MAX_DRAWS * GOLDEN)
    return _mix(starts[:, None] + _counters(num, seeds.device))


@cache
def _counters(num: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(1, num + 1, dtype=torch.int64, device=device) * GOLDEN


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift_right(words, 30)) * MIX_1
    words = (words ^ _shift_right(words, 27)) * MIX_2
    return words ^ _shift_right(words, 31)


def _mix_word(word: int) -> int:
    """``_mix`` of one word, unsigned."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * MIX_2) & _WORD
    return word ^ (word >> 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift as if unsigned: int64's own shift repeats the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
