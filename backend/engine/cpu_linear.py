"""Linear layers for a few rows on a CPU: weights stored and packed as float16.

A step of one sequence reads every weight once, so its time is the memory's. A checkpoint that was
stored in float16 loses nothing when its weights stay that way: products and sums are float32
(FBGEMM). What the machine's PyTorch can do is tried out when the model is loaded.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

MAX_BATCH = 8
"""Most rows in a batch on a CPU; more only wait for each other, since products are busy with 8."""
TOLERANCE = 1e-5
"""Largest relative error of a packed layer against ``F.linear``."""
_TRIALS = 3
"""Random inputs of each shape, each in another order, that a batch size must pass."""


class PackedLinear:
    """A linear layer with packed float16 weights: ``[..., in]`` to ``[..., out]`` float32.

    Args:
        weight: ``[out, in]`` float32, exact in float16 (``is_exact_in_fp16``).
        bias: ``[out]`` float32 or None.

    Attributes:
        shape: Of the weight.
        is_row_by_row: Whether ``into`` multiplies each row alone, for machines where a row's bits
            depend on how many there are.
    """

    __slots__ = ("_bias", "_packed", "is_row_by_row", "shape")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.shape = weight.shape
        self.is_row_by_row = False
        has_no_bias = bias is None and _writes_into_buffers()
        zeros = None if has_no_bias else weight.new_zeros(weight.shape[0])
        self._bias = zeros if bias is None else bias.detach()
        with warnings.catch_warnings():
            # PyTorch says once that both functions "will be removed in a future release"; the
            # probe at load notices when they are
            warnings.simplefilter("ignore")
            self._packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.detach().contiguous())
            self(weight.new_zeros(1, weight.shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply; rows in any leading dimensions."""
        return torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, self._bias)

    def into(self, x: Tensor, out: Tensor) -> None:
        """Multiply ``[P, in]`` into ``out``, ``[P, out]`` in one piece; the bits are a call's."""
        if self.is_row_by_row and len(x) > 1:
            for row, out_row in zip(x.split(1), out.split(1), strict=True):
                self._into(row, out_row)
        else:
            self._into(x, out)

    def _into(self, x: Tensor, out: Tensor) -> None:
        if _writes_into_buffers():
            torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, self._bias, out)
        else:
            out.copy_(self(x))


@cache
def _writes_into_buffers() -> bool:
    """Whether this PyTorch's packed product takes a buffer, and no bias (newer ones do)."""
    product = torch.ops.aten.fbgemm_linear_fp16_weight_fp32_activation
    return "out" in product.overloads()


def is_exact_in_fp16(weight: Tensor) -> bool:
    """Whether float16 holds every value of ``weight`` exactly."""
    return bool(torch.equal(weight.half().to(weight.dtype), weight))


def why_not_packed(weights: Iterable[Tensor]) -> str | None:
    """Try packing on one of these weights; tell why it cannot be used, or None where it can."""
    first: Tensor | None = None
    for weight in weights:
        if weight.dtype != torch.float32:
            return f"the weights are {weight.dtype}, not float32"
        if not is_exact_in_fp16(weight):
            return "float16 does not hold the checkpoint's weights exactly"
        first = weight if first is None else first
    if first is None:
        return "there are no weights"
    x = _probe_input(first)
    expected = F.linear(x, first)
    try:
        error = float((PackedLinear(first)(x) - expected).norm() / expected.norm())
    except (RuntimeError, AttributeError, NotImplementedError) as reason:
        return f"this PyTorch does not pack weights: {str(reason).splitlines()[0]}"
    if not error <= TOLERANCE:
        return f"packed weights differ from plain ones by {error:.1e} on this CPU"
    return None


def stable_batch_sizes(
    linears: Sequence[tuple[Callable[[Tensor], Tensor], int]],
    dtype: torch.dtype = torch.float32,
    *,
    has_pairs: bool = True,
) -> tuple[int, ...]:
    """Find batch sizes in which a row has the same bits, in company as alone, wherever it stands.

    Products of other sizes may take other code paths, and so may the last rows of one product.
    Only what several trials have shown is used: a size is in, or it is out.

    Args:
        linears: Layers and the width of their input, each with the shapes of the network.
        dtype: Of their input.
        has_pairs: Whether ``P`` sequences meet the layers not only as ``[P, width]``, but also as
            ``[P, 2, width]``. Each must agree with its own kind.

    Returns:
        Rising sizes up to ``MAX_BATCH``. Size 1, where no other is safe: it mixes no rows.
    """
    shapes = ((), (2,)) if has_pairs else ((),)
    alone = _sizes_that_agree_with(1, linears, dtype, shapes)
    if alone[-1] >= MAX_BATCH // 2:
        return alone
    # A single row often takes a path of its own (a matrix-vector product): larger batches may
    # still agree with each other, and a lone sequence then goes in a batch that is filled up.
    filled = _sizes_that_agree_with(MAX_BATCH, linears, dtype, shapes)
    return filled if MAX_BATCH in filled else alone


def _sizes_that_agree_with(
    reference: int,
    linears: Sequence[tuple[Callable[[Tensor], Tensor], int]],
    dtype: torch.dtype,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[int, ...]:
    """Sizes in which every row gets what it gets in batches of ``reference`` rows (a divisor)."""
    sizes = set(range(1, MAX_BATCH + 1))
    for linear, width in linears:
        for trial in range(_TRIALS):
            generator = torch.Generator().manual_seed(trial)
            for shape in shapes:
                x = torch.randn(MAX_BATCH, *shape, width, generator=generator).to(dtype)
                expected = torch.cat([linear(part) for part in x.split(reference)])
                order = torch.randperm(MAX_BATCH, generator=generator)
                sizes = {
                    size
                    for size in sizes
                    if torch.equal(linear(x[order[:size]]), expected[order[:size]])
                }
    if reference == 1:
        sizes.add(1)
    return tuple(sorted(sizes))


def _probe_input(weight: Tensor) -> Tensor:
    """Numbers like a normalized layer's input."""
    generator = torch.Generator().manual_seed(MAX_BATCH)
    return torch.randn(MAX_BATCH, weight.shape[1], generator=generator)
