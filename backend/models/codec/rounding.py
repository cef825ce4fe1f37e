"""Which parameters of a codec may be rounded to half precision and which may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from backend.models.codec.decoder import OutputConv1d
from backend.models.codec.layers import Snake
from backend.models.codec.quantizer import VectorQuantizer

if TYPE_CHECKING:
    from backend.models.codec.codec import Codec


def float32_names(codec: Codec) -> set[str]:
    """Name the parameters that stay float32 in a half-precision codec."""
    exact = (Snake, VectorQuantizer, OutputConv1d)
    modules = [(name, m) for name, m in codec.named_modules() if isinstance(m, exact)]
    return {f"{name}.{leaf}" for name, m in modules for leaf, _ in m.named_parameters()}


def round_weights(codec: Codec, dtype: torch.dtype) -> Codec:
    """Turn a codec into one of ``dtype`` in place, as ``load_codec`` would have loaded it."""
    exact = float32_names(codec)
    for name, parameter in codec.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if name in exact else dtype)
    return codec
