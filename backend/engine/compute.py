"""Which functions decode steps run on, and in which batches a row keeps its bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from backend.engine.cpu_linear import PackedLinear, stable_batch_sizes, why_not_packed
from backend.engine.cpu_ops import packed_ops
from backend.engine.step_ops import module_ops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.engine.step_ops import NetworkOps
    from backend.models.dual_ar import DualAR

CARD_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class StepCompute:
    """What decode steps run on.

    Attributes:
        ops: Functions of the network.
        batch_sizes: Sizes that batches are filled up to, rising.
        notes: What differs from what the settings asked for.
    """

    ops: NetworkOps
    batch_sizes: tuple[int, ...]
    notes: tuple[str, ...] = ()


@torch.inference_mode()
def choose_compute(model: DualAR, device: torch.device, *, is_fast: bool) -> StepCompute:
    """Choose what decode steps run on.

    Args:
        model: On ``device``, with its tokens bound.
        device: A CPU or a card.
        is_fast: The setting ``CPU_FAST_LINEAR``; a card does not need it.
    """
    if device.type != "cpu":
        return StepCompute(module_ops(model), CARD_BATCH_SIZES)
    notes: tuple[str, ...] = ()
    if is_fast:
        reason = why_not_packed(_linear_weights(model))
        if reason is None:
            return StepCompute(packed_ops(model), _stable_sizes(model, is_packed=True))
        notes = (f"CPU_FAST_LINEAR: plain linear layers are used, since {reason}",)
    return StepCompute(module_ops(model), _stable_sizes(model, is_packed=False), notes)


def _linear_weights(model: DualAR) -> Iterator[Tensor]:
    """Every weight that a decode step multiplies with."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight
    if model.semantic_head is not None:
        yield model.semantic_head


def _stable_sizes(model: DualAR, *, is_packed: bool) -> tuple[int, ...]:
    by_shape = {weight.shape: weight for weight in _linear_weights(model)}
    return stable_batch_sizes(
        [
            (PackedLinear(weight) if is_packed else partial(F.linear, weight=weight), shape[1])
            for shape, weight in by_shape.items()
        ]
    )
