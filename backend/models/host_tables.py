"""Tables that stay in the host's memory and are read by the card where they lie.

An embedding is a table of which a step reads a few rows. S1-mini's text embeddings are 0.3 GB, and
a prompt reads some hundred rows of 2 KB: a card reads those over the bus in microseconds. The
memory is page-locked, so that the card can address it; the tensor that comes back is one of the
card's, and every kernel that reads by index works on it unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

TEXT_TABLE = "embeddings.weight"
CODE_TABLE = "codebook_embeddings.weight"
HOST_TABLES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "text": (TEXT_TABLE,),
    "all": (TEXT_TABLE, CODE_TABLE),
}
"""By the value of HOST_EMBEDDINGS: the tables that stay in the host."""


class _MappedRows:
    """The array interface of page-locked memory, as a card's."""

    def __init__(self, pinned: Tensor) -> None:
        self.pinned = pinned  # PyTorch keeps this object, and so the memory, with the tensor
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": tuple(pinned.shape),
            "typestr": "|u1",  # the interface does not know bfloat16
            "data": (pinned.data_ptr(), False),
            "version": 2,
        }


_mapped: WeakValueDictionary[int, _MappedRows] = WeakValueDictionary()
"""By address."""


def lies_on_host(tensor: Tensor) -> bool:
    """Whether a tensor of a card is a table in the host's memory."""
    return tensor.untyped_storage().data_ptr() in _mapped


def mapped_to_card(table: Tensor, device: torch.device) -> Tensor:
    """Copy ``table`` into page-locked memory and give it as a tensor of ``device``.

    Args:
        table: ``[rows, width]`` on the CPU, in the type that is wanted.
        device: A CUDA device.

    Returns:
        The same shape and type; reads go over the bus.
    """
    pinned = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
    pinned.copy_(table)
    rows = _MappedRows(pinned.view(torch.uint8))
    _mapped[pinned.data_ptr()] = rows
    return torch.as_tensor(rows, device=device).view(table.dtype)


def leave_on_host(
    tensors: Mapping[str, Tensor],
    names: Collection[str],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """Map the tables ``names`` of a checkpoint to ``device``; leave the others as they are."""
    mapped = {
        name: mapped_to_card(tensors[name].to(dtype), device) for name in names if name in tensors
    }
    return {**tensors, **mapped}
