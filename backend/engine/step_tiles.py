"""How the products of a decode step's Triton kernels are cut up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.models.quantized_linear import NF4_BLOCK

MOST_SPLITS = 4
"""Programs that share one sum over a wide input."""
_STAGES, _LONG_STAGES = 4, 5
"""Loads in flight; five for shared sums that have more, four for those of NF4, for which it was not
compared. Five need what the four of a gate need of shared memory, whose weights are two."""
_WIDE_ROWS = 64
"""Rows of Hopper's widest matrix instructions, which read their operands where they lie: a step of
32 rows takes 1.94 ms with them and 2.92 without, of 2 rows 1.66 and 2.07."""
_FEW_NF4_ROWS = 16
"""Rows up to which they do not pay for NF4, whose weights are unpacked in registers first: 16 rows
take 6.3 ms either way, 32 rows 6.1 and 11.2."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """How a product of many rows is cut up."""

    block_m: int
    block_n: int
    block_k: int
    split_k: int
    warps: int
    stages: int


def tile_shape(
    rows: int, features: int, width: int, *, is_sum: bool, is_nf4: bool = False,
    is_hopper: bool = False,
) -> TileShape:  # fmt: skip
    """Choose tiles; the sums of a row do not depend on how many rows there are."""
    block_k = math.gcd(width, NF4_BLOCK if is_nf4 else 128)
    split_k = 1
    while is_sum and split_k * 2 <= MOST_SPLITS and width % (split_k * 2 * block_k) == 0:
        split_k *= 2
    is_wide = is_hopper and not (is_nf4 and rows <= _FEW_NF4_ROWS)
    block_m = _WIDE_ROWS if is_wide else min(64, max(16, _power_of_two(rows)))
    is_long = is_sum and not is_nf4 and width // (split_k * block_k) > _STAGES
    return TileShape(block_m, 32, block_k, split_k, 4, _LONG_STAGES if is_long else _STAGES)


def few_rows_shape(width: int, *, is_int8: bool) -> tuple[int, int]:
    """Features of a program and its warps: measured best on an H200 over 2 to 16 features."""
    block_n = 4
    weights_a_thread = 32 if is_int8 else 128
    weights = block_n * _power_of_two(width)
    return block_n, max(1, weights // (weights_a_thread * 32))


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
