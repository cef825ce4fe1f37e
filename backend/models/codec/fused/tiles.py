"""How the matrix products of the fused codec are cut up, by shape alone.

A fixed table instead of measuring at start: every tile is a kernel to compile. The tiles were chosen
on an H200; on smaller cards they are right as well, and less than best.
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


ENOUGH_PROGRAMS = 120
"""Programs that keep a large card busy."""
_HALF = (
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 32, 128, 4, 4),
    Tile(32, 32, 128, 4, 4),
    Tile(16, 32, 128, 4, 4),
    Tile(16, 16, 256, 4, 4),
)
"""Largest first, two bytes a value."""
_WIDE = (Tile(64, 64, 32, 4, 3), Tile(32, 32, 32, 4, 3), Tile(16, 16, 64, 4, 3))
"""Four bytes a value."""
_UNIT_CHANNELS = 192
"""A program of ``unit_kernel`` holds two sums of so many channels a row in registers."""


def product_tile(rows: int, columns: int, *, is_gated: bool, item_bytes: int) -> Tile:
    """Choose the tile of a product ``[rows, columns]``."""
    tiles = _HALF if item_bytes == 2 else _WIDE
    for tile in tiles:
        if is_gated and tile.n > 128:  # two sums
            continue
        fits = tile.m <= max(16, _power_of_two(rows)) and tile.n <= columns
        if fits and _programs(tile, rows, columns) >= ENOUGH_PROGRAMS:
            return tile
    small = [tile for tile in tiles if tile.m <= max(16, _power_of_two(rows))]
    return max(small, key=lambda tile: (_programs(tile, rows, columns), tile.m))


def unit_tile(rows: int, channels: int, *, item_bytes: int) -> Tile | None:
    """Choose the tile of a whole residual unit, or None if two products are better."""
    if item_bytes == 2 and channels <= _UNIT_CHANNELS and split_channels(channels) is not None:
        m = 128 if rows >= 128 * ENOUGH_PROGRAMS else 64 if rows >= 64 * 32 else 32
        warps = 8 if m == 128 and channels > 128 else 4
        return Tile(m, channels, 64, warps, 3)
    return None


def split_channels(channels: int) -> tuple[int, int] | None:
    """Write ``channels`` as a power of two and half of it, or as a power of two and 0."""
    power = 16
    while power * 2 <= channels:
        power *= 2
    rest = channels - power
    return (power, rest) if rest in (0, power // 2) and (rest == 0 or rest >= 16) else None


def k_block(tile: Tile, channels: int) -> int:
    """Values of a sum taken at a time: the tile's, or the largest part that divides ``channels``."""
    block = tile.k
    while channels % block:
        block //= 2
    return block


def _programs(tile: Tile, rows: int, columns: int) -> int:
    return -(-rows // tile.m) * -(-columns // tile.n)


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
