"""How the matrix products of the fused codec are cut up, by shape alone.

A fixed table instead of measuring at start: every tile is a kernel to compile. The tiles were
chosen on an H200; on smaller cards they are right as well, and less than best.
"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple, TypeAlias

ProductKind: TypeAlias = Literal["half", "tf32", "ieee"]
"""Values of two bytes; float32 rounded to 10 bits on the matrix units; exact float32."""


class Tile(NamedTuple):
    """Part of a product that one program makes.

    Attributes:
        m: Rows.
        n: Columns.
        k: Values of a sum taken at a time, at most; halved until it divides the channels.
        warps: Of the program.
        stages: Loads in flight.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int


LEAST_CHANNELS = 16
"""The matrix units take so many values of a tap at a time."""
_HALF = (
    (Tile(128, 128, 64, 8, 3), 96),
    (Tile(128, 64, 64, 4, 4), 512),
    (Tile(64, 64, 64, 4, 4), 128),
    (Tile(64, 32, 128, 4, 4), 96),
    (Tile(64, 16, 128, 4, 4), 96),
    (Tile(16, 32, 256, 4, 3), 96),
    (Tile(16, 16, 256, 2, 4), 0),
)
"""Tiles of values of two bytes, largest first, each with the programs it needs to be the right one:
fewer leave too much of the card idle."""
_SHORT, _LONG = 768, 3072
"""Values of sums that are made in a few steps, so that two programs side by side matter most, and
of those long enough for few, large steps."""
_HALF_BY_WIDTH = (
    (range(_SHORT + 1), ((Tile(64, 128, 64, 4, 3), 384), (Tile(128, 64, 64, 4, 3), 512))),
    (range(_SHORT + 1, _LONG), ((Tile(256, 128, 64, 8, 3), 384),)),
    (range(_LONG, sys.maxsize), ((Tile(128, 128, 128, 8, 3), 96),)),
)
"""What comes before these by the length of the sums: 10 to 28, 11 and 1 to 18 % faster for the
shapes of 8 to 32 streams of 8 frames of S1-mini on an H200. They add in the same order."""
_TF32 = (
    (Tile(128, 128, 32, 8, 3), 96),
    (Tile(128, 64, 32, 4, 3), 512),
    (Tile(64, 64, 32, 4, 4), 96),
    (Tile(16, 32, 64, 4, 3), 0),
)
"""The same for float32 on the matrix units."""
_FLOAT32 = ((Tile(32, 32, 32, 4, 3), 64), (Tile(16, 16, 32, 4, 3), 0))
"""The same for exact float32."""
_TILES = {"half": _HALF, "tf32": _TF32, "ieee": _FLOAT32}
_UNIT_CHANNELS = 192
"""A program of ``unit_kernel`` holds two sums of so many channels a row in registers."""
_UNIT_CHANNELS_TF32 = 128
_UNIT_ROWS = 6144
"""Rows from which whole units keep the card busy; below, two products have more programs."""


def product_tile(rows: int, columns: int, width: int, kind: ProductKind) -> Tile:
    """Choose the tile of a product ``[rows, columns]``, each a sum of ``width`` values."""
    tiles = _TILES[kind]
    if kind == "half":
        tiles = next(found for widths, found in _HALF_BY_WIDTH if width in widths) + tiles
    for tile, enough in tiles:
        fits = tile.m <= _power_of_two(rows) and (columns % tile.n == 0 or tile.n <= 64)
        if fits and _programs(tile, rows, columns) >= enough:
            return tile
    return tiles[-1][0]


def unit_tile(rows: int, channels: int, kind: ProductKind) -> Tile | None:
    """Choose the tile of a whole residual unit, or None if two products are better."""
    if rows < _UNIT_ROWS or split_channels(channels) is None:
        return None
    if kind == "half" and channels <= _UNIT_CHANNELS:
        return Tile(64 if channels > 128 else 128, channels, 64, 4, 3)
    if kind == "tf32" and channels <= _UNIT_CHANNELS_TF32:
        return Tile(64 if channels > 64 else 128, channels, 32, 4, 3)
    return None


def split_channels(channels: int) -> tuple[int, int] | None:
    """Write ``channels`` as a power of two and half of it, or as a power of two and 0."""
    power = 16
    while power * 2 <= channels:
        power *= 2
    rest = channels - power
    return (power, rest) if rest in (0, power // 2) and (rest == 0 or rest >= 16) else None


def k_block(tile: Tile, channels: int) -> int:
    """Values of a sum taken at a time: the tile's, or the largest part that divides them."""
    block = tile.k
    while channels % block:
        block //= 2
    return block


def _programs(tile: Tile, rows: int, columns: int) -> int:
    return -(-rows // tile.m) * -(-columns // tile.n)


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
