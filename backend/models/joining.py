"""Joining tensors, also those without memory (``engine.twins``).

Of these ``torch.cat``, ``repeat``, ``sum`` and arithmetic import ``torch._dynamo``: two seconds of
a start in which no other thread gets on. Copies do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """As ``torch.cat`` of tensors of one dtype."""
    sizes = [part.shape[dim] for part in parts]
    shape = list(parts[0].shape)
    shape[dim] = sum(sizes)
    whole = parts[0].new_empty(shape)
    for place, part in zip(whole.split(sizes, dim), parts, strict=True):
        place.copy_(part)
    return whole


def stacked(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """As ``torch.stack`` of tensors of one dtype."""
    return joined([part.unsqueeze(dim) for part in parts], dim)


def repeated(row: Tensor, times: int) -> Tensor:
    """``[N]`` so many times behind itself."""
    return row.expand(times, -1).flatten()


def summed(parts: Sequence[Tensor]) -> Tensor:
    """Add tensors of one shape; without memory there is nothing to add."""
    return parts[0].clone() if parts[0].is_meta else stacked(parts).sum(dim=0)
