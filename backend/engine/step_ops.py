"""What a decode step computes with: the network as a table of functions.

The step itself is one piece of code; packed, quantized or fused kernels come in by replacing
entries of this table. ``module_ops`` is the plain one: the network's own modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backend.models.layers import apply_rope

if TYPE_CHECKING:
    from torch import nn

    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock

Op = Callable[[Tensor], Tensor]
"""Maps ``[..., in]`` to ``[..., out]``, each row by itself."""
Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys, values."""
ProjectBlock = Callable[["TransformerBlock", Tensor, Tensor], Heads]
FinishBlock = Callable[["TransformerBlock", Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class BlockOps:
    """One transformer block, but for its attention, which the step does itself.

    Attributes:
        project: ``[..., dim]`` and rows of a rotary table to queries ``[..., H, D]``, keys and
            values ``[..., G, D]``; the first two normalized and rotated.
        finish: ``[..., dim]`` and what was attended to, ``[..., H * D]``, to ``[..., dim]``.
        num_groups: ``G``.
        head_dim: ``D``.
    """

    project: Callable[[Tensor, Tensor], Heads]
    finish: Callable[[Tensor, Tensor], Tensor]
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
    rope: Tensor
    fast_rope: Tensor


def project(block: TransformerBlock, x: Tensor, angles: Tensor) -> Heads:
    """The half of a block before its attention; see ``BlockOps.project``."""
    attention = block.attention
    num_heads, num_groups = attention.num_heads, attention.num_groups
    heads = attention.wqkv(block.attention_norm(x)).unflatten(-1, (-1, attention.head_dim))
    qk, v = heads.split([num_heads + num_groups, num_groups], dim=-2)
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = qk.split([num_heads, num_groups], dim=-2)
        qk = torch.cat((attention.q_norm(q), attention.k_norm(k)), dim=-2)
    q, k = apply_rope(qk, angles).split([num_heads, num_groups], dim=-2)
    return q, k, v


def finish(block: TransformerBlock, x: Tensor, mixed: Tensor) -> Tensor:
    """The half of a block behind its attention; see ``BlockOps.finish``."""
    x = x + block.attention.wo(mixed)
    return x + block.feed_forward(block.ffn_norm(x))


def module_ops(
    model: DualAR, project: ProjectBlock = project, finish: FinishBlock = finish
) -> NetworkOps:
    """The network's own modules, whatever they have been replaced by.

    Args:
        model: With its tokens bound.
        project: The first half of each block, in case there is a faster one.
        finish: The second half, likewise.
    """

    def blocks(layers: nn.ModuleList) -> tuple[BlockOps, ...]:
        return tuple(_module_block(layer, project, finish) for layer in layers)  # pyright: ignore[reportArgumentType]

    return NetworkOps(
        embed=lambda rows: model.embed(rows[:, :, None])[:, 0],
        slow=blocks(model.layers),
        semantic_logits=model.semantic_logits,
        fast_input=model.fast_input,
        fast_embed=model.fast_embeddings,
        fast=blocks(model.fast_layers),
        fast_logits=model.fast_logits,
        rope=model.rope,
        fast_rope=model.fast_rope,
    )


def _module_block(block: TransformerBlock, project: ProjectBlock, finish: FinishBlock) -> BlockOps:
    attention = block.attention
    return BlockOps(
        partial(project, block), partial(finish, block), attention.num_groups, attention.head_dim
    )
