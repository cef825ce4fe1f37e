"""Which functions decode steps run on, and in which batches a row keeps its bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from backend.engine.cpu_linear import PackedLinear, stable_batch_sizes, why_not_packed
from backend.engine.cpu_ops import packed_ops, packed_weights
from backend.engine.step_ops import module_ops
from backend.models.quantized_linear import NF4Linear, QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.engine.step_ops import NetworkOps, Op
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
        reason = _why_not_packed(model)
        if reason is None:
            weights = {weight.shape: weight for weight in packed_weights(model)}.values()
            probes = [(PackedLinear(weight), weight.shape[1]) for weight in weights]
            return StepCompute(packed_ops(model), stable_batch_sizes(probes, torch.float32))
        notes = (f"CPU_FAST_LINEAR: plain linear layers are used, since {reason}",)
    dtype = model.embeddings.weight.dtype
    return StepCompute(module_ops(model), stable_batch_sizes(_probes(model), dtype), notes)


def _why_not_packed(model: DualAR) -> str | None:
    if any(isinstance(module, QuantizedLinear | NF4Linear) for module in model.modules()):
        return "the weights are quantized"
    return why_not_packed(_linear_weights(model))


def _linear_weights(model: DualAR) -> Iterator[Tensor]:
    """Every plain weight that a decode step multiplies with."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight
    if model.semantic_head is not None:
        yield model.semantic_head


def _probes(model: DualAR) -> list[tuple[Op, int]]:
    """One layer of each kind and shape, with the width of its input."""
    probes: dict[object, tuple[Op, int]] = {
        weight.shape: (partial(F.linear, weight=weight), weight.shape[1])
        for weight in _linear_weights(model)
    }
    for module in model.modules():
        if isinstance(module, QuantizedLinear | NF4Linear):
            shape = (type(module), module.in_features, module.out_features)
            probes[shape] = (module, module.in_features)
    return list(probes.values())
