"""The dual-AR's files: official names and config keys, fp16 safetensors, the byte tokenizer."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scripts.pocket.lm_net import NUM_BYTES, DualAR, LMSizes

if TYPE_CHECKING:
    from pathlib import Path


def save_lm(net: DualAR, path: Path) -> None:
    """Write fp16 weights under the official names, the sizes in the metadata."""
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(state, str(path), metadata={"sizes": json.dumps(asdict(net.sizes))})


def save_official_lm(net: DualAR, path: Path) -> None:
    """Write fp16 weights as the shipped ``model.safetensors``: config in the metadata too."""
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(state, str(path), metadata={"config": json.dumps(official_config(net.sizes))})


def load_lm(path: Path, dropout: float = 0.0) -> DualAR:
    """Read a model that ``save_lm`` wrote."""
    with safe_open(str(path), "pt") as file:
        sizes = LMSizes(**json.loads(file.metadata()["sizes"]))
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no dict
    net = DualAR(replace(sizes, dropout=dropout))
    net.load_state_dict(state)
    return net.eval()


def load_official_lm(folder: Path) -> DualAR:
    """Read ``config.json`` and ``model.safetensors`` of a shipped folder, for inference."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known: dict[str, Any] = {n: config[n] for n in asdict(LMSizes()) if n in config}
    known["dropout"] = 0.0
    net = DualAR(LMSizes(**known))
    state = load_file(str(folder / "model.safetensors"))
    net.load_state_dict({name: value.float() for name, value in state.items()})
    return net.eval()


def official_config(sizes: LMSizes) -> dict[str, object]:
    """``config.json`` of the official layout."""
    return {
        "model_type": "dual_ar",
        "vocab_size": sizes.vocab_size,
        "n_layer": sizes.n_layer,
        "n_head": sizes.n_head,
        "dim": sizes.dim,
        "intermediate_size": sizes.intermediate_size,
        "n_local_heads": sizes.n_head,
        "head_dim": sizes.head_dim,
        "rope_base": sizes.rope_base,
        "norm_eps": sizes.norm_eps,
        "max_seq_len": sizes.max_seq_len,
        "dropout": 0.0,
        "tie_word_embeddings": True,
        "attention_qkv_bias": False,
        "attention_o_bias": False,
        "attention_qk_norm": True,
        "codebook_size": sizes.codebook_size,
        "num_codebooks": sizes.num_codebooks,
        "use_gradient_checkpointing": False,
        "initializer_range": 0.02,
        "is_reward_model": False,
        "scale_codebook_embeddings": True,
        "n_fast_layer": sizes.n_fast_layer,
        "fast_dim": sizes.fast_dim,
        "fast_n_head": sizes.fast_n_head,
        "fast_n_local_heads": sizes.fast_n_head,
        "fast_head_dim": sizes.fast_head_dim,
        "fast_intermediate_size": sizes.fast_intermediate_size,
        "fast_attention_qkv_bias": False,
        "fast_attention_qk_norm": False,
        "fast_attention_o_bias": False,
    }


def write_tokenizer(sizes: LMSizes, folder: Path) -> None:
    """``tokenizer.tiktoken`` with one rank per byte, and ``special_tokens.json``."""
    ranks = (f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(NUM_BYTES))
    (folder / "tokenizer.tiktoken").write_text("".join(ranks), encoding="ascii")
    ids = {token: NUM_BYTES + i for i, token in enumerate(sizes.tokens)}
    (folder / "special_tokens.json").write_text(json.dumps(ids, indent=1), encoding="utf-8")
