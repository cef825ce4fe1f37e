"""Small dual-AR checkpoints in the official form, the same on every machine.

Used on both sides of a parity test, so nothing of either package is imported. Weights come from a
written-down formula instead of a random generator, so they need not be shipped: element ``i`` of
tensor ``name`` is ``splitmix64(crc32(name) * 2**32 + i)``, read as a number in [-1, 1).
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMED_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|phoneme_start|>",
    "<|phoneme_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|text|>",
    "<|voice|>",
    "<|interleave|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio|>",
)
CODEBOOK_SIZE = 1040  # above the 1024 logits that the official sampler reads
NUM_MERGES = 200
CHUNK = 1 << 22
MERGE_CORPUS = (
    "the quick brown fox jumps over the lazy dog while seven wizards quietly observe. "
    "Hello there, how are you today? I am speaking (excited) this (laughing) sentence. "
    "你好，世界。今天天气很好。 Grüße aus Köln! Привет, мир. ¿Qué tal? 12345 67.89% "  # noqa: RUF001
    "<|speaker:0|> speaker speaker don't we'll they're it's "
)

# "s1" has the switches of S1-mini, "turned" the opposite of each, so that all code is compared.
VARIANTS: dict[str, dict[str, Any]] = {
    "s1": {
        "dim": 64,
        "n_layer": 3,
        "n_head": 4,
        "n_local_heads": 2,
        "head_dim": 32,
        "intermediate_size": 96,
        "rope_base": 1_000_000,
        "norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_qk_norm": True,
        "scale_codebook_embeddings": True,
        "n_fast_layer": 2,
        "fast_dim": 64,
        "fast_n_head": 4,
        "fast_n_local_heads": 2,
        "fast_head_dim": 16,
        "fast_intermediate_size": 80,
        "fast_attention_qk_norm": False,
        "fast_attention_qkv_bias": False,
        "fast_attention_o_bias": False,
    },
    "turned": {
        "dim": 48,
        "n_layer": 2,
        "n_head": 3,
        "n_local_heads": 3,
        "head_dim": 16,
        "intermediate_size": 64,
        "rope_base": 10_000,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attention_qk_norm": False,
        "attention_qkv_bias": True,
        "attention_o_bias": True,
        "scale_codebook_embeddings": False,
        "n_fast_layer": 2,
        "fast_dim": 32,
        "fast_n_head": 4,
        "fast_n_local_heads": 1,
        "fast_head_dim": 8,
        "fast_intermediate_size": 48,
        "fast_attention_qk_norm": True,
        "fast_attention_qkv_bias": True,
        "fast_attention_o_bias": True,
    },
}


def tiny_config(variant: str) -> dict[str, Any]:
    """``config.json`` of one variant, with every official key."""
    return {
        "model_type": "dual_ar",
        "vocab_size": 256 + NUM_MERGES + len(special_tokens(variant)) + 13,  # 13 unused rows
        "max_seq_len": 2304,  # the official prompt check keeps 2048 positions free
        "dropout": 0.0,
        "codebook_size": CODEBOOK_SIZE,
        "num_codebooks": 10,
        "initializer_range": 0.02,
        "use_gradient_checkpointing": False,
        "is_reward_model": False,
        "attention_qkv_bias": False,
        "attention_o_bias": False,
        **VARIANTS[variant],
    }


def special_tokens(variant: str) -> list[str]:
    """Control tokens in file order. Only ``turned`` has the speaker tag among them."""
    semantic = [f"<|semantic:{code}|>" for code in range(CODEBOOK_SIZE)]
    return [*NAMED_SPECIALS, *semantic, *(["<|speaker:0|>"] if variant == "turned" else [])]


def learned_ranks(num_merges: int = NUM_MERGES) -> dict[bytes, int]:
    """Byte ranks plus merges learned from ``MERGE_CORPUS`` by plain byte-pair counting."""
    ranks = {bytes([value]): value for value in range(256)}
    words = [
        [bytes([value]) for value in (" " + word).encode()] for word in MERGE_CORPUS.split(" ")
    ]
    for _ in range(num_merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[left + right] = len(ranks)
        words = [_joined(word, left, right) for word in words]
    return ranks


def weight_values(name: str, shape: Iterable[int]) -> Tensor:
    """Float32 values in [-1, 1) that depend on ``name`` and position alone."""
    shape = tuple(shape)
    start_state = np.uint64(((zlib.crc32(name.encode()) << 32) + 0x9E3779B97F4A7C15) % 2**64)
    values = np.empty(math.prod(shape), dtype=np.float32)
    for start in range(0, len(values), CHUNK):  # the 64-bit steps in between need room
        end = min(start + CHUNK, len(values))
        z = np.arange(start, end, dtype=np.uint64)
        z += start_state
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)  # the upper 24 bits: exact in float32
        values[start:end] = z.astype(np.float32) / 2**23 - 1.0
    return torch.from_numpy(values.reshape(shape))


def exponential_noise(seed: int, draw: int, size: int) -> Tensor:
    """Float32 ``Exp(1)`` noise ``[size]`` for one draw, above 0."""
    uniform = 0.5 + 0.5 * weight_values(f"noise {seed} {draw}", [size])  # [0, 1)
    return 2.0**-24 - torch.log1p(-uniform)


def codes_like_noise(name: str, num_frames: int, num_codebooks: int = 10) -> Tensor:
    """Codes ``[K, F]`` int64 as a recording could have: semantic ones of the whole range."""
    uniform = 0.5 + 0.5 * weight_values(f"codes {name}", [num_codebooks, num_frames])
    sizes = torch.full((num_codebooks, 1), 1024.0)
    sizes[0] = CODEBOOK_SIZE
    return (uniform * sizes).long()


def tiny_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """One weight, sized so that every part of the network shows in the output."""
    values = weight_values(name, shape)
    if len(shape) == 1:  # norms around 1, biases far from 0
        return 1.0 + 0.5 * values if name.endswith("norm.weight") else 0.3 * values
    if name.endswith("embeddings.weight"):
        return values
    gain = 3.0 if name in {"output.weight", "fast_output.weight"} else 1.0
    return gain * math.sqrt(3.0 / shape[1]) * values


def tiny_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an official checkpoint with this configuration."""
    dim, fast_dim = config["dim"], config["fast_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.weight": (config["vocab_size"], dim),
        "codebook_embeddings.weight": (config["codebook_size"] * config["num_codebooks"], dim),
        "norm.weight": (dim,),
        "fast_embeddings.weight": (config["codebook_size"], fast_dim),
        "fast_norm.weight": (fast_dim,),
        "fast_output.weight": (config["codebook_size"], fast_dim),
    }
    if not config["tie_word_embeddings"]:
        shapes["output.weight"] = (config["vocab_size"], dim)
    if fast_dim != dim:
        shapes |= {"fast_project_in.weight": (fast_dim, dim), "fast_project_in.bias": (fast_dim,)}
    for stack, prefix, count in (
        ("layers", "", "n_layer"),
        ("fast_layers", "fast_", "n_fast_layer"),
    ):
        for layer in range(config[count]):
            block = _block_shapes(config, prefix)
            shapes |= {f"{stack}.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def tiny_weights(variant: str) -> dict[str, Tensor]:
    """All weights of one variant, float32, under their official names."""
    shapes = tiny_shapes(tiny_config(variant))
    return {name: tiny_weight(name, shape) for name, shape in shapes.items()}


def write_tiny_checkpoint(directory: Path, variant: str) -> Path:
    """Write config, tokenizer and ``model.pth`` the way the official directory holds them."""
    directory.mkdir(parents=True, exist_ok=True)
    write_texts(directory, tiny_config(variant), learned_ranks(), special_tokens(variant))
    torch.save(tiny_weights(variant), directory / "model.pth")
    return directory


def write_texts(
    directory: Path, config: dict[str, Any], ranks: dict[bytes, int], specials: list[str]
) -> None:
    """Write everything of a checkpoint but the weights."""
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (directory / "tokenizer.tiktoken").write_text("".join(lines), encoding="utf-8")
    ids = {token: len(ranks) + index for index, token in enumerate(specials)}
    (directory / "special_tokens.json").write_text(json.dumps(ids), encoding="utf-8")


def _block_shapes(config: dict[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    dim, heads = config[f"{prefix}dim"], config[f"{prefix}n_head"]
    groups, width = config[f"{prefix}n_local_heads"], config[f"{prefix}head_dim"]
    inner = config[f"{prefix}intermediate_size"]
    total = (heads + 2 * groups) * width
    shapes: dict[str, tuple[int, ...]] = {
        "attention.wqkv.weight": (total, dim),
        "attention.wo.weight": (dim, heads * width),
        "feed_forward.w1.weight": (inner, dim),
        "feed_forward.w3.weight": (inner, dim),
        "feed_forward.w2.weight": (dim, inner),
        "ffn_norm.weight": (dim,),
        "attention_norm.weight": (dim,),
    }
    if config[f"{prefix}attention_qkv_bias"]:
        shapes["attention.wqkv.bias"] = (total,)
    if config[f"{prefix}attention_o_bias"]:
        shapes["attention.wo.bias"] = (dim,)
    if config[f"{prefix}attention_qk_norm"]:
        shapes |= {"attention.q_norm.weight": (width,), "attention.k_norm.weight": (width,)}
    return shapes


def _joined(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    out: list[bytes] = []
    for token in word:
        if out and out[-1] == left and token == right:
            out[-1] = left + right
        else:
            out.append(token)
    return out
