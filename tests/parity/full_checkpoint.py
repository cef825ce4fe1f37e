"""A checkpoint of exactly S1-mini's sizes, with weights from the formula of the tiny ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.parity.tiny_checkpoint import NAMED_SPECIALS, tiny_shapes, tiny_weight, write_texts

NUM_RANKS = 151_643

S1_MINI: dict[str, Any] = {
    "model_type": "dual_ar",
    "vocab_size": 155776,
    "n_layer": 28,
    "n_head": 16,
    "n_local_heads": 8,
    "head_dim": 128,
    "dim": 1024,
    "intermediate_size": 3072,
    "rope_base": 1000000,
    "norm_eps": 1e-6,
    "max_seq_len": 8192,
    "dropout": 0,
    "tie_word_embeddings": False,
    "attention_qkv_bias": False,
    "attention_o_bias": False,
    "attention_qk_norm": True,
    "codebook_size": 4096,
    "num_codebooks": 10,
    "scale_codebook_embeddings": True,
    "initializer_range": 0.03125,
    "use_gradient_checkpointing": True,
    "is_reward_model": False,
    "n_fast_layer": 4,
    "fast_dim": 1024,
    "fast_n_head": 16,
    "fast_n_local_heads": 8,
    "fast_head_dim": 64,
    "fast_intermediate_size": 3072,
    "fast_attention_qkv_bias": False,
    "fast_attention_qk_norm": False,
    "fast_attention_o_bias": False,
}


def write_full_checkpoint(directory: Path) -> Path:
    """Write the official form of S1-mini in float32 (3.4 GB) with made-up weights.

    The merge table has the official number of entries; those beyond the bytes occur in no text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ranks = {bytes([value]): value for value in range(256)}
    for rank in range(256, NUM_RANKS):
        ranks[b"\xff" + rank.to_bytes(3, "big")] = rank
    semantic = [f"<|semantic:{code}|>" for code in range(S1_MINI["codebook_size"])]
    write_texts(directory, S1_MINI, ranks, [*NAMED_SPECIALS, *semantic])
    shapes = tiny_shapes(S1_MINI)
    weights = {name: tiny_weight(name, shape) for name, shape in shapes.items()}
    torch.save(weights, directory / "model.pth")
    return directory
