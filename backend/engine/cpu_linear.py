"""Linear layers for a few rows on a CPU: weights stored and packed as float16.

A step of one sequence reads every weight once, so its time is the memory's. A checkpoint that was
stored in float16 loses nothing when its weights stay that way: products and sums are float32
(FBGEMM). What the machine's PyTorch can do is tried out when the model is loaded.
"""

from __future__ import annotations

import warnings
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
_PROBE_ROWS = 2 * MAX_BATCH


class PackedLinear:
    """A linear layer with packed float16 weights: ``[..., in]`` to ``[..., out]`` float32.

    Args:
        weight: ``[out, in]`` float32, exact in float16 (``is_exact_in_fp16``).
        bias: ``[out]`` float32 or None.
    """

    __slots__ = ("_bias", "_packed")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach()
        with warnings.catch_warnings():
            # PyTorch says once that both functions "will be removed in a future release"; the
            # probe at load notices when they are
            warnings.simplefilter("ignore")
            self._packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.detach().contiguous())
            self(weight.new_zeros(1, weight.shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply; rows in any leading dimensions."""
        return torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, self._bias)


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
    linears: Sequence[tuple[Callable[[Tensor], Tensor], int]], dtype: torch.dtype = torch.float32
) -> tuple[int, ...]:
    """Find batch sizes in which a row has the same bits.

    A batch of ``P`` rows meets the linear layers as ``P`` rows, and as ``2 P`` where the first two
    positions of the fast transformer go together; both must give the rows of a product of 8.

    Args:
        linears: Layers and the width of their input.
        dtype: Of their input.

    Returns:
        Rising sizes up to ``MAX_BATCH``; ``(MAX_BATCH,)`` alone where only a fixed size is safe.
    """
    stable = set(range(1, _PROBE_ROWS + 1))
    for linear, width in linears:
        x = _rows(_PROBE_ROWS, width).to(dtype)
        expected = torch.cat([linear(part) for part in x.split(MAX_BATCH)])
        stable = {n for n in stable if torch.equal(linear(x[:n]), expected[:n])}
    sizes = [n for n in range(1, MAX_BATCH) if n in stable and 2 * n in stable]
    return (*sizes, MAX_BATCH)


def _probe_input(weight: Tensor) -> Tensor:
    return _rows(MAX_BATCH, weight.shape[1])


def _rows(num_rows: int, width: int) -> Tensor:
    """Numbers like a normalized layer's input."""
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(num_rows))
