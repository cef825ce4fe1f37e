"""Small codecs for tests: real structure, weights computed from their names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.models.codec.codec import Codec
from backend.models.codec.config import CodecConfig
from backend.models.codec.weights import fold_weight_norm, unfold_weight_norm
from tests.parity.codec_cases import TINY, codec_weight


def tiny_config(**changes: Any) -> CodecConfig:
    """The tiny configuration, with some fields changed."""
    return CodecConfig.from_dict({**TINY, **changes})


def official_tensors(config: CodecConfig) -> dict[str, Tensor]:
    """Weights of a codec as the official file spells them, weight norm unfolded."""
    with torch.device("meta"):
        names = unfold_weight_norm(Codec(config).state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in names.items()}
    return {name: codec_weight(name, shape, shapes) for name, shape in shapes.items()}


def tiny_codec(dtype: torch.dtype = torch.float32, **changes: Any) -> Codec:
    """A codec of ``tiny_config`` with its weights, in ``dtype`` throughout."""
    config = tiny_config(**changes)
    with torch.device("meta"):
        codec = Codec(config)
    codec.load_state_dict(fold_weight_norm(official_tensors(config)), assign=True)
    return codec.eval().requires_grad_(requires_grad=False).to(dtype)
