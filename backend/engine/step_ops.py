"""What a decode step computes with: the network as a table of functions.

The step itself is one piece of code; packed, quantized or fused kernels come in by replacing
entries of this table. ``module_ops`` is the plain one: the network's own modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backend.models.layers import apply_rope

if TYPE_CHECKING:
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock

Op = Callable[[Tensor], Tensor]
"""Maps ``[..., in]`` to ``[..., out]``, each row by itself."""


@dataclass(frozen=True, slots=True)
class BlockOps:
    """One transformer block.

    Attributes:
        attention_norm: ``[..., dim]`` to the same.
        wqkv: ``[..., dim]`` to ``[..., (H + 2 G) * D]``: queries, keys, values.
        qk_norm: ``[..., H + G, D]`` queries and keys to the same; None where the model has none.
        wo: ``[..., H * D]`` to ``[..., dim]``.
        ffn_norm: ``[..., dim]`` to the same.
        feed_forward: ``[..., dim]`` to the same, without the residual.
        num_heads: ``H``.
        num_groups: ``G``.
        head_dim: ``D``.
    """

    attention_norm: Op
    wqkv: Op
    qk_norm: Op | None
    wo: Op
    ffn_norm: Op
    feed_forward: Op
    num_heads: int
    num_groups: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class NetworkOps:
    """Both transformers.

    Attributes:
        embed: ``[P, 1 + K]`` int64 rows to ``[P, dim]``.
        slow: Blocks of the transformer over time.
        semantic_logits: ``[P, dim]`` to ``[P, num_semantic + 1]``, final norm included.
        fast_input: ``[P, dim]`` hidden states to ``[P, fast_dim]``.
        fast_embed: ``[P]`` int64 codes to ``[P, fast_dim]``.
        fast: Blocks of the transformer over codebooks.
        fast_logits: ``[P, fast_dim]`` to ``[P, num_residual]``, final norm included.
        rotate: Turns ``[..., heads, D]`` by rows of a rotary table (see below).
        rope: ``[positions, ...]``, a row for each position of the slow transformer.
        fast_rope: ``[K, ...]``, likewise for the fast one.
    """

    embed: Op
    slow: tuple[BlockOps, ...]
    semantic_logits: Op
    fast_input: Op
    fast_embed: Op
    fast: tuple[BlockOps, ...]
    fast_logits: Op
    rotate: Callable[[Tensor, Tensor], Tensor]
    rope: Tensor
    fast_rope: Tensor


def module_ops(model: DualAR) -> NetworkOps:
    """The network's own modules, whatever they have been replaced by."""
    return NetworkOps(
        embed=lambda rows: model.embed(rows[:, :, None])[:, 0],
        slow=tuple(module_block(layer) for layer in model.layers),  # pyright: ignore[reportArgumentType]
        semantic_logits=model.semantic_logits,
        fast_input=model.fast_input,
        fast_embed=model.fast_embeddings,
        fast=tuple(module_block(layer) for layer in model.fast_layers),  # pyright: ignore[reportArgumentType]
        fast_logits=model.fast_logits,
        rotate=apply_rope,
        rope=model.rope,
        fast_rope=model.fast_rope,
    )


def module_block(block: TransformerBlock) -> BlockOps:
    """One block by its own modules."""
    attention = block.attention
    num_heads = attention.num_heads
    q_norm, k_norm = attention.q_norm, attention.k_norm

    def qk_norm(heads: Tensor) -> Tensor:
        assert q_norm is not None
        assert k_norm is not None
        q, k = heads.split([num_heads, attention.num_groups], dim=-2)
        return torch.cat((q_norm(q), k_norm(k)), dim=-2)

    return BlockOps(
        attention_norm=block.attention_norm,
        wqkv=attention.wqkv,
        qk_norm=None if q_norm is None else qk_norm,
        wo=attention.wo,
        ffn_norm=block.ffn_norm,
        feed_forward=block.feed_forward,
        num_heads=num_heads,
        num_groups=attention.num_groups,
        head_dim=attention.head_dim,
    )
