"""What the codec is compared on, written once for the oracle, the live test and the goldens.

Used on both sides of a parity test, so nothing of either package is imported. Weights, recordings
and codes are computed from names alone and are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tests.parity.tiny_checkpoint import weight_values

TINY: dict[str, Any] = {
    "sample_rate": 8000,
    "encoder_dim": 16,
    "encoder_rates": [2, 4],
    "encoder_transformer_layers": [0, 1],
    "latent_dim": 32,
    "decoder_dim": 32,
    "decoder_rates": [4, 2],
    "n_codebooks": 3,
    "codebook_size": 16,
    "semantic_codebook_size": 32,
    "codebook_dim": 8,
    "downsample_factor": [2, 2],
    "n_layer": 2,
    "dim": 32,
    "n_head": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "window_size": 8,
    "rope_base": 10000,
    "norm_eps": 1e-5,
}
"""Everything the real codec has, in 212 thousand parameters; a frame is 32 samples."""

TINY_RECORDINGS = (5000, 31)
"""The first is 625 encoder steps: more than the window of 512 that the official encoder fixes."""
TINY_FRAMES = (40, 1)
"""The first is five windows of the transformer after the codes."""


def recording(num_samples: int) -> Tensor:
    """``[1, S]`` float32: noise whose loudness swells and falls."""
    swell = torch.sin(torch.arange(num_samples) * (12 / num_samples)).abs()
    return weight_values("recording", (1, num_samples)) * 0.5 * swell


def codes_of(codebook_sizes: Iterable[int], num_frames: int) -> Tensor:
    """``[1, K, F]`` int64: codes of every value."""
    rows = [
        ((weight_values(f"codes {k}", (num_frames,)) + 1) / 2 * size).long()
        for k, size in enumerate(codebook_sizes)
    ]
    return torch.stack(rows)[None]


def codec_weight(name: str, shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> Tensor:
    """Value of one parameter, by its official name, that leaves its mark on the output.

    The official initialization would hide errors: LayerScale starts at 0.01, ConvNeXt at 1e-6.

    Args:
        name: Official name; weight norm is not folded.
        shape: Its shape.
        shapes: Of all parameters: a magnitude is chosen for its direction.
    """
    noise = weight_values(name, shape)
    if name.endswith("gamma"):
        return 0.5 + 0.2 * noise
    if name.endswith("alpha") or "norm" in name.split(".")[-2]:
        return 1.0 + 0.5 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    if name.endswith(("original0", "weight_g")):
        direction = name.replace("original0", "original1").replace("weight_g", "weight_v")
        return _row_length(name, shapes[direction]) * (1.0 + 0.2 * noise)
    if name.endswith(("original1", "weight_v", "codebook.weight")):
        return math.sqrt(3) * noise
    return noise * math.sqrt(3 / math.prod(shape[1:]))


def _row_length(name: str, direction: tuple[int, ...]) -> float:
    rows, columns, taps = direction
    if rows == 1:
        return 0.08  # the convolution that makes samples: keeps the tanh out of saturation
    if name.startswith("decoder.") and taps % 2 == 0:
        # Transposed: rows are inputs, and half of the taps meet in one output.
        return 0.8 * math.sqrt(columns * taps / (2 * rows))
    is_end_of_residual_unit = taps == 1 and rows == columns
    return 0.25 if is_end_of_residual_unit else 0.8
