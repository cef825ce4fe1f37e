"""Weight-only quantization of the dual-AR network: which layers, and how they are loaded.

Quantized are all linear layers inside the slow and the fast transformer blocks, attention
projections included: nearly all bytes that a frame reads. Kept as they are: both output heads, all
embeddings, the norms and ``fast_project_in``, which are small or hurt when rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from backend.core.errors import CheckpointError, SettingsError
from backend.models.quantized_linear import (
    NF4Linear,
    QuantizedLinear,
    quantize_int8,
    quantize_nf4,
)
from backend.models.tensor_files import NO_QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

_STACKS = ("layers.", "fast_layers.")
_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weight of one linear layer is stored.

    Attributes:
        module: Takes the place of ``nn.Linear``.
        leaves: Names of its two stored tensors: codes, scales.
        quantize: Turns a weight ``[N, K]`` into the two.
    """

    module: type[QuantizedLinear | NF4Linear]
    leaves: tuple[str, str]
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]]


SCHEMES = {
    "int8": Scheme(QuantizedLinear, ("weight_int8", "scale"), quantize_int8),
    "nf4": Scheme(NF4Linear, ("weight_nf4", "scale"), quantize_nf4),
}
"""By the value of QUANTIZATION, which is also what a file's metadata says."""


def linear_names(model: nn.Module) -> list[str]:
    """Names of the layers that quantization applies to: ``layers.0.attention.wqkv`` and so on."""
    kinds = (nn.Linear, QuantizedLinear, NF4Linear)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and name.startswith(_STACKS)
    ]


def replace_linears(model: nn.Module, scheme: str) -> frozenset[str]:
    """Put empty quantized layers in the place of linear ones; weights follow.

    Build ``model`` on the meta device and call this under it, so that nothing is allocated.

    Returns:
        Names of the codes and scales, which keep their own dtype when they are loaded.
    """
    chosen = SCHEMES[scheme]
    stored: set[str] = set()
    for name in linear_names(model):
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        new = chosen.module(old.in_features, old.out_features, bias=old.bias is not None)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
        stored.update(f"{name}.{each}" for each in chosen.leaves)
    return frozenset(stored)


def quantize_tensors(
    tensors: Mapping[str, Tensor],
    names: list[str],
    scheme: str,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Quantize the weights of the layers ``names``; leave the other tensors as they are.

    One weight at a time is copied to ``device`` and rounded there, so the peak is the result plus
    one weight.

    Raises:
        CheckpointError: A weight is not finite or too large; it is named.
    """
    chosen = SCHEMES[scheme]
    weights = {name + _WEIGHT for name in names}
    ready = {name: value for name, value in tensors.items() if name not in weights}
    for name in names:
        weight = tensors.get(name + _WEIGHT)
        if weight is None or weight.ndim != 2:
            continue  # strict loading names what is missing or misshaped
        codes, scale = chosen.quantize(weight.to(device))
        if not bool(scale.isfinite().all()):
            raise CheckpointError(
                f"{name}{_WEIGHT} cannot be stored as {scheme}: it is not finite or too large; the "
                "file is damaged, or use QUANTIZATION=none"
            )
        codes_leaf, scale_leaf = chosen.leaves
        ready |= {f"{name}.{codes_leaf}": codes, f"{name}.{scale_leaf}": scale}
    return ready


def require_same_scheme(stored: str, wanted: str, what: str) -> None:
    """Refuse a file that was quantized otherwise than the settings say.

    Plain weights (``none``) fit every setting: they are quantized while they are loaded.

    Raises:
        SettingsError: The two differ; the message names both ways out.
    """
    if stored in (NO_QUANTIZATION, wanted):
        return
    raise SettingsError(
        f"QUANTIZATION={wanted}, but {what} holds {stored} weights: set QUANTIZATION={stored}, or "
        "use the directory with the plain weights it was made from"
    )
