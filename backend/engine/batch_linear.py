"""Linear layers of a batch in CUDA C++: how they are cut up, and what their kernel is given.

``kernels/batch_linear.cu`` says how it works. Who launches it is the caller's choice, so that a
test can run the same source on a CPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.step_weights import Weights

NAME = "batch_linear"
NUM_THREADS = 256
NUM_BLOCKS = 128
"""Blocks that a layer is meant to have, one a multiprocessor."""
_WARPS = 8
MOST_SHARED_BYTES = 227 << 10
_PREFERRED = {
    ("norm", 4096): (2, 2), ("norm", 2048): (1, 1), ("norm", 1024): (4, 1),
    ("gate", 3072): (1, 1),
    ("sum", 3072): (4, 1), ("sum", 2048): (2, 1), ("sum", 1024): (4, 1),
}  # fmt: skip
"""Blocks of a cluster and groups of warps, by what a product is for and how many outputs or, of a
sum, inputs it has: best at 32 rows on an H200."""
_PREFERRED_BY_MANY = {("norm", 2048): (4, 2)}
"""The same where more than 16 rows are done at a time, if it differs."""
_OTHERS = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2))
_MOST_COLUMNS = {"norm": 4, "gate": 2, "sum": 4}
"""Rows in eights that are done at a time, so that two kernels have room beside each other."""
COLUMNS = (1, 2, 4)


class LinearArguments(ctypes.Structure):
    """``struct Args`` of the kernel."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "x", "w", "w_other", "scale", "scale_other", "norm", "out",
        )),
        ("x_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("rows", ctypes.c_int),
        ("eps", ctypes.c_float),
    )  # fmt: skip


@cache
def source() -> str:
    """The kernel's text."""
    folder = Path(__file__).with_name("kernels")
    return "".join((folder / f"{part}.cu").read_text("utf-8") for part in ("hopper", NAME))


@dataclass(frozen=True, slots=True)
class LinearSizes:
    """What is compiled into a kernel.

    Attributes:
        width: Inputs.
        features: Outputs.
        split: Blocks of a cluster, which share the inputs.
        tiles: Of 16 features, or of 8 of both factors, a cluster.
        groups: Of a block's warps, which share the tiles; the warps of one share the inputs.
        columns: Rows in eights that are done at a time.
        is_gate: Whether it is a gate and another factor.
        is_int8: Whether the weights are.
        has_norm: Whether the inputs are normalized first.
        has_residual: Whether the products are added to what is there.
    """

    width: int
    features: int
    split: int
    tiles: int
    groups: int
    columns: int
    is_gate: bool
    is_int8: bool
    has_norm: bool
    has_residual: bool

    @property
    def num_blocks(self) -> int:
        """Of the grid."""
        return self.features // (self.tiles * (8 if self.is_gate else 16)) * self.split

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: ``struct Shared``, rounded up, and its weights."""
        items, rows = self.tiles * self.columns, self.columns * 8
        boxes = (2 if self.split > 1 else 1) * self.split
        sums = _WARPS * (items // self.groups) * 512 + _WARPS * rows * 4
        inbox = boxes * (-(-items // self.split) * 512 + rows * 4)
        own = self.width // self.split
        norm = 2 * own if self.has_norm else 16
        fixed = -(-(sums + inbox + norm + 16) // 128) * 128
        return fixed + self.tiles * 16 * (own * (1 if self.is_int8 else 2) + 64)

    def defines(self) -> dict[str, int]:
        """Macros of the source."""
        return {
            "K": self.width,
            "TILES": self.tiles,
            "CK": self.split,
            "WN": self.groups,
            "NT": self.columns,
            "IS_GATE": int(self.is_gate),
            "IS_INT8": int(self.is_int8),
            "HAS_NORM": int(self.has_norm),
            "HAS_RESIDUAL": int(self.has_residual),
            "MIN_BLOCKS": 2,
        }

    @property
    def fits(self) -> bool:
        """Whether the layer divides among blocks, warps and the matrix units."""
        step = 64 if self.is_int8 else 32
        features = self.tiles * (8 if self.is_gate else 16)
        return (
            self.tiles > 0
            and self.features % features == 0
            and self.tiles % self.groups == 0
            and self.width % (self.split * (_WARPS // self.groups) * step) == 0
            and self.shared_bytes <= MOST_SHARED_BYTES
        )


def sizes_for(
    width: int, features: int, rows: int, *, is_gate: bool, is_int8: bool, has_norm: bool,
    has_residual: bool,
) -> LinearSizes | None:  # fmt: skip
    """How a layer is cut up in steps of so many rows, or None if it cannot be."""
    kind = "gate" if is_gate else "sum" if has_residual else "norm"
    needed = next((count for count in COLUMNS if 8 * count >= rows), COLUMNS[-1])
    columns = min(_MOST_COLUMNS[kind], needed)
    known = (_PREFERRED | _PREFERRED_BY_MANY) if needed == COLUMNS[-1] else _PREFERRED
    preferred = known.get((kind, width if has_residual else features))
    for split, groups in (preferred, *_OTHERS) if preferred else _OTHERS:
        tiles = features // (8 if is_gate else 16) * split // NUM_BLOCKS
        sizes = LinearSizes(
            width, features, split, tiles, groups, columns, is_gate, is_int8, has_norm, has_residual
        )
        if sizes.fits:
            return sizes
    return None


def arguments(
    x: Tensor, weights: Weights, others: Weights | None, norm: Tensor | None, out: Tensor, *,
    rows: int, strides: tuple[int, int], eps: float,
) -> LinearArguments:  # fmt: skip
    """What a kernel reads and writes: the first ``rows`` rows of ``x`` and ``out``.

    Args:
        x: Rows, ``strides[0]`` apart.
        weights: ``[features, width]``.
        others: The factor beside a gate.
        norm: ``[width]``, or None.
        out: Rows, ``strides[1]`` apart.
        rows: How many.
        strides: In elements.
        eps: Of the norm.
    """
    second = others or weights
    return LinearArguments(
        x=x.data_ptr(), w=weights.weight.data_ptr(), w_other=second.weight.data_ptr(),
        scale=0 if weights.scale is None else weights.scale.data_ptr(),
        scale_other=0 if second.scale is None else second.scale.data_ptr(),
        norm=0 if norm is None else norm.data_ptr(), out=out.data_ptr(),
        x_stride=strides[0], out_stride=strides[1], rows=rows, eps=eps,
    )  # fmt: skip
