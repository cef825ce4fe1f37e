"""Weights close together: what loading needed on the way leaves holes between them.

A tensor that is quantized or packed while it is loaded needs room beside it, and what is freed then
is too small for the slots that follow. PyTorch gives memory back in pages of 20 MB and only whole
ones, so a tenth of a card's memory may lie unused. Here everything goes to the host once and comes
back in a row.
"""

from __future__ import annotations

import logging
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from backend.models.host_tables import lies_on_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    _Place: TypeAlias = tuple[int, torch.Size, tuple[int, ...]]
    """Of a view: offset, sizes and strides."""

_log = logging.getLogger(__name__)

MOST_WASTE = 0.1
"""Share of the memory taken that may lie unused before weights are moved."""


def make_dense(device: torch.device, owners: Iterable[object]) -> None:
    """Give unused memory back, and move what ``owners`` hold together if much stays unused.

    Args:
        device: A card; elsewhere nothing is done.
        owners: Modules, dataclasses and plain objects of this project, gone through with all that
            they hold. What others hold of the same tensors keeps the old memory.
    """
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()  # noqa: TID251 - once, before any request
    held, taken = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    if taken - held > MOST_WASTE * taken:
        _log.info("weights are moved together: %d MiB between them", (taken - held) >> 20)
        move_together(tensors_of(owners), device)


@torch.no_grad()
def move_together(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Bring the memory of ``tensors`` to the host and back; they stay the same objects."""
    sharing: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.device == device and not lies_on_host(tensor):
            sharing.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    groups = [[(each, _place_of(each)) for each in group] for group in sharing.values()]
    # first all of it: if the host has no room, nothing has changed
    contents = [_bytes_of(group[0][0]).to("cpu", copy=True) for group in groups]
    for group in groups:
        for each, _ in group:
            each.data = each.data.new_empty(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # noqa: TID251 - once, before any request
    for content, group in zip(contents, groups, strict=True):
        storage = content.to(device, copy=True).untyped_storage()
        for each, place in group:
            each.data = each.data.new_empty(0).set_(storage, *place)


def tensors_of(owners: Iterable[object]) -> Iterator[Tensor]:
    """Every tensor that ``owners`` hold, at any depth, once."""
    seen: dict[int, object] = {}
    waiting = list(owners)
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each  # kept: the number of what has gone may be given again
        if isinstance(each, Tensor):
            yield each
            if each._base is not None:  # it holds what is viewed as well
                waiting.append(each._base)
        else:
            waiting.extend(_parts_of(each))


def _parts_of(owner: object) -> Iterator[Any]:
    if isinstance(owner, dict):
        yield from owner.values()
    elif isinstance(owner, list | tuple):
        yield from owner
    elif isinstance(owner, nn.Module):
        yield from vars(owner).values()
    elif is_dataclass(owner) and not isinstance(owner, type):
        yield from (getattr(owner, field.name) for field in fields(owner))
    elif type(owner).__module__.startswith("backend."):
        yield from getattr(owner, "__dict__", {}).values()


def _place_of(tensor: Tensor) -> _Place:
    return int(tensor.storage_offset()), tensor.size(), tensor.stride()


def _bytes_of(tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
