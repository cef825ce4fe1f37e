"""How the matrix products of the fused codec are cut up, by shape alone.

A fixed table instead of measuring at start: every tile is a kernel to compile. The tiles were
chosen on an H200; on smaller cards they are right as well, and less than best.
"""

from __future__ import annotations

from typing import NamedTuple


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
_WIDE = ((Tile(32, 32, 32, 4, 3), 64), (Tile(16, 16, 32, 4, 3), 0))
"""The same for four bytes."""
_UNIT_CHANNELS = 192
"""A program of ``unit_kernel`` holds two sums of so many channels a row in registers."""
_UNIT_ROWS = 6144
"""Rows from which whole units keep the card busy; below, two products have more programs."""


def product_tile(rows: int, columns: int, *, item_bytes: int) -> Tile:
    """Choose the tile of a product ``[rows, columns]``."""
    tiles = _HALF if item_bytes == 2 else _WIDE
    for tile, enough in tiles:
        wastes_none = columns % tile.n == 0 or tile.n <= 64
        if (
            tile.m <= _power_of_two(rows)
            and wastes_none
            and _programs(tile, rows, columns) >= enough
        ):
            return tile
    return tiles[-1][0]


def unit_tile(rows: int, channels: int, *, item_bytes: int) -> Tile | None:
    """Choose the tile of a whole residual unit, or None if two products are better."""
    if item_bytes != 2 or channels > _UNIT_CHANNELS or split_channels(channels) is None:
        return None
    if rows < _UNIT_ROWS:
        return None
    return Tile(64 if channels > 128 else 128, channels, 64, 4, 3)


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
