"""A model directory with S1-mini's real sizes and random weights: speed does not depend on them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.models.codec.codec import Codec
from backend.models.codec.config import S1_MINI as S1_CODEC
from backend.models.codec.weights import save_codec
from tests.parity.full_checkpoint import NUM_RANKS, S1_MINI
from tests.parity.tiny_checkpoint import NAMED_SPECIALS, tiny_shapes, write_texts

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NEEDED_BYTES = 4 << 30
NUM_VOICES = 8
VOICE_FRAMES = 215
"""10 s at S1-mini's frame rate."""


def write_random_s1(directory: Path, device: torch.device) -> Path:
    """Write the official form in bf16 (1.7 GB) and our codec in fp32 (1.6 GB); return the folder.

    Both this project and the official package read ``model.pth``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ranks = {bytes([value]): value for value in range(256)}
    for rank in range(256, NUM_RANKS):
        ranks[b"\xff" + rank.to_bytes(3, "big")] = rank  # in no text
    semantic = [f"<|semantic:{code}|>" for code in range(S1_MINI["codebook_size"])]
    write_texts(directory, S1_MINI, ranks, [*NAMED_SPECIALS, *semantic])
    generator = torch.Generator(device).manual_seed(0)
    weights = {
        name: random_weight(name, shape, generator).to("cpu", torch.bfloat16)
        for name, shape in tiny_shapes(S1_MINI).items()
    }
    torch.save(weights, directory / "model.pth")
    del weights
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Codec(S1_CODEC).state_dict().items()}
    codec = {
        name: random_weight(name, shape, generator).to("cpu") for name, shape in shapes.items()
    }
    save_codec(directory / "codec.safetensors", S1_CODEC, codec)
    return directory


def write_random_voices(directory: Path) -> None:
    """Put eight voices of 10 s, made of random codes, beside such a model."""
    (directory / "voices").mkdir()
    rng = np.random.default_rng(5)
    for idx in range(NUM_VOICES):
        codes = rng.integers(0, 1024, (10, VOICE_FRAMES)).tolist()
        text = f"Voice number {idx} says this sentence, and then another one, for ten seconds."
        content = {"name": f"voice{idx}", "text": text, "codes": codes}
        (directory / "voices" / f"voice{idx}.json").write_text(json.dumps(content), "utf-8")


def random_weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """One float32 weight that keeps the size of what it is applied to."""
    device = generator.device
    if name.endswith("bias"):
        return torch.zeros(shape, device=device)
    if name.endswith(("norm.weight", "alpha")):
        return torch.ones(shape, device=device)
    if name.endswith("gamma"):
        return torch.full(shape, 0.1, device=device)
    values = torch.randn(shape, generator=generator, device=device)
    return values / math.sqrt(max(1, math.prod(shape[1:])))
