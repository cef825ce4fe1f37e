"""The decode step's functions for a CPU: packed weights and fewer, larger operations.

At one row an operation costs some microseconds before it computes anything; a frame of the pocket
voice has hundreds. Everything is float32 and agrees with the plain modules to rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from backend.engine.cpu_linear import PackedLinear
from backend.engine.step_ops import BlockOps, NetworkOps, module_ops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock


def packed_ops(model: DualAR) -> NetworkOps:
    """The network with packed weights, for float32 weights that are exact in float16."""
    assert model.semantic_head is not None
    norm, fast_norm = VectorNorm.of(model.norm), VectorNorm.of(model.fast_norm)
    head = PackedLinear(model.semantic_head)
    fast_head = PackedLinear(model.fast_output.weight[: model.residual_size])
    project = model.fast_project_in
    into_fast = _packed(project) if isinstance(project, nn.Linear) else project
    is_normed = model.config.norm_fastlayer_input
    codes = model.fast_embeddings.weight
    return NetworkOps(
        embed=module_ops(model).embed,
        slow=tuple(packed_block(layer) for layer in model.layers),  # pyright: ignore[reportArgumentType]
        semantic_logits=lambda hidden: head(norm(hidden)),
        fast_input=lambda hidden: into_fast(norm(hidden) if is_normed else hidden),
        fast_embed=lambda ids: codes.index_select(0, ids),
        fast=tuple(packed_block(layer) for layer in model.fast_layers),  # pyright: ignore[reportArgumentType]
        fast_logits=lambda x: fast_head(fast_norm(x)),
        rotate=rotate,
        rope=rotation_table(model.rope),
        fast_rope=rotation_table(model.fast_rope),
    )


def packed_weights(model: DualAR) -> Iterator[Tensor]:
    """What ``packed_ops`` packs, matrix by matrix."""
    assert model.semantic_head is not None
    yield model.semantic_head
    yield model.fast_output.weight[: model.residual_size]
    if isinstance(model.fast_project_in, nn.Linear):
        yield model.fast_project_in.weight
    for block in (*model.layers, *model.fast_layers):
        yield block.attention.wqkv.weight  # pyright: ignore
        yield block.attention.wo.weight  # pyright: ignore
        yield _gate_up(block)  # pyright: ignore[reportArgumentType]
        yield block.feed_forward.w2.weight  # pyright: ignore


def packed_block(block: TransformerBlock) -> BlockOps:
    """One block with packed weights; both halves of the gate are one product."""
    attention, ffn = block.attention, block.feed_forward
    gate_up = PackedLinear(_gate_up(block))
    down = PackedLinear(ffn.w2.weight)
    width = ffn.w1.weight.shape[0]

    def feed_forward(x: Tensor) -> Tensor:
        gate, up = gate_up(x).split(width, dim=-1)
        return down(F.silu(gate).mul_(up))

    return BlockOps(
        attention_norm=VectorNorm.of(block.attention_norm),
        wqkv=_packed(attention.wqkv),
        qk_norm=_head_norms(block),
        wo=_packed(attention.wo),
        ffn_norm=VectorNorm.of(block.ffn_norm),
        feed_forward=feed_forward,
        num_heads=attention.num_heads,
        num_groups=attention.num_groups,
        head_dim=attention.head_dim,
    )


class VectorNorm:
    """Root-mean-square norm as a division by the vector's length: four operations.

    ``x / sqrt(mean(x^2) + eps) * w`` is ``x / hypot(|x|, sqrt(n eps)) * (sqrt(n) w)``.

    Args:
        weight: ``[n]``, or ``[heads, n]`` for a weight of each head.
        eps: As in ``RMSNorm``.
    """

    __slots__ = ("_floor", "_weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        width = weight.shape[-1]
        self._weight = weight.detach().float() * math.sqrt(width)
        self._floor = torch.tensor(math.sqrt(width * eps), device=weight.device)

    @classmethod
    def of(cls, norm: nn.Module) -> VectorNorm:
        """The same norm as an ``RMSNorm`` module."""
        return cls(norm.weight, norm.eps)  # pyright: ignore[reportArgumentType]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.div(torch.hypot(length, self._floor)).mul_(self._weight)


def rotation_table(rope: Tensor) -> Tensor:
    """A rotary table ``[positions, D // 2, 2]`` as complex numbers ``[positions, 1, D // 2]``."""
    return torch.view_as_complex(rope.contiguous())[:, None]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate neighboring pairs of every head: ``[..., heads, D]`` float32 by a table's rows."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def _head_norms(block: TransformerBlock) -> VectorNorm | None:
    q_norm, k_norm = block.attention.q_norm, block.attention.k_norm
    if q_norm is None or k_norm is None:
        return None
    num_heads, num_groups = block.attention.num_heads, block.attention.num_groups
    weights = (q_norm.weight.expand(num_heads, -1), k_norm.weight.expand(num_groups, -1))
    return VectorNorm(torch.cat(weights), q_norm.eps)


def _gate_up(block: TransformerBlock) -> Tensor:
    return torch.cat((block.feed_forward.w1.weight, block.feed_forward.w3.weight))


def _packed(linear: nn.Linear) -> PackedLinear:
    return PackedLinear(linear.weight, linear.bias)
