"""Which functions decode steps run on, and in which batches a row keeps its bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from backend.engine.cpu_linear import MAX_BATCH, stable_batch_sizes, why_not_packed
from backend.engine.cpu_network import PackedNetwork
from backend.models.quantized_linear import NF4Linear, QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.engine.step_ops import Op
    from backend.models.dual_ar import DualAR

CARD_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class StepCompute:
    """What decode steps run on.

    Attributes:
        batch_sizes: Sizes that batches are filled up to, rising.
        packed: The network for ``PackedFrameDecoder``; None where steps run on the plain modules.
        notes: What differs from what the settings asked for.
    """

    batch_sizes: tuple[int, ...]
    packed: PackedNetwork | None = None
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
        return StepCompute(CARD_BATCH_SIZES)
    notes: tuple[str, ...] = ()
    if is_fast:
        reason = _why_not_packed(model)
        if reason is None:
            return _packed_compute(PackedNetwork.of(model))
        notes = (f"CPU_FAST_LINEAR: plain linear layers are used, since {reason}",)
    dtype = model.embeddings.weight.dtype
    return StepCompute(stable_batch_sizes(_probes(model), dtype), notes=notes)


def _packed_compute(network: PackedNetwork) -> StepCompute:
    """Batches of packed layers; where a lone row has bits of its own, it keeps them in company.

    Filling a lone sequence's batch up to a safe size would make its step 1.7 times as long (three
    rows, AVX2); row by row, steps of eight take 1.5 times as long. See ADR 7.
    """
    probes = {linear.shape: (linear, linear.shape[1]) for linear in network.linears()}
    sizes = stable_batch_sizes(list(probes.values()), has_pairs=False)
    if sizes[0] > 1 or len(sizes) == 1:
        for linear in network.linears():
            linear.is_row_by_row = True
        sizes = tuple(range(1, MAX_BATCH + 1))
    return StepCompute(sizes, network)


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
