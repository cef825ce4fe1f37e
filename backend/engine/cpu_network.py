"""The network's weights as a decode step on a CPU wants them: packed, and norms in few operations.

Everything is float32 and agrees with the plain modules to rounding. Functions write into buffers of
the caller: at one row an operation's own work is often shorter than making room for its result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from backend.engine.cpu_linear import PackedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.models.config import BlockConfig
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock


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
        self._floor = torch.tensor(math.sqrt(width * eps))

    @classmethod
    def of(cls, norm: nn.Module) -> VectorNorm:
        """The same norm as an ``RMSNorm`` or ``HeadNorm`` module."""
        return cls(norm.weight, norm.eps)  # pyright: ignore[reportArgumentType]

    def into(self, x: Tensor, out: Tensor, length: Tensor) -> None:
        """Normalize the last dimension of ``x`` ``[..., n]`` into ``out``, which may be ``x``.

        Args:
            x: float32.
            out: Of the same shape.
            length: ``[..., 1]``, room for the lengths.
        """
        torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=length)
        torch.hypot(length, self._floor, out=length)
        torch.div(x, length, out=out)
        out.mul_(self._weight)


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """One transformer block.

    Attributes:
        attention_norm: Over ``dim``.
        wqkv: ``dim`` to ``(H + 2 G) * D``: queries, keys, values.
        qk_norm: Over each head of queries and keys ``[..., H + G, D]``; None where there is none.
        wo: ``H * D`` to ``dim``.
        ffn_norm: Over ``dim``.
        gate_up: ``dim`` to twice the intermediate size, the gate first.
        down: Intermediate size to ``dim``.
    """

    attention_norm: VectorNorm
    wqkv: PackedLinear
    qk_norm: VectorNorm | None
    wo: PackedLinear
    ffn_norm: VectorNorm
    gate_up: PackedLinear
    down: PackedLinear

    @classmethod
    def of(cls, block: TransformerBlock) -> PackedBlock:
        """Pack a block whose weights are exact in float16."""
        attention, ffn = block.attention, block.feed_forward
        return cls(
            attention_norm=VectorNorm.of(block.attention_norm),
            wqkv=_packed(attention.wqkv),
            qk_norm=_head_norms(block),
            wo=_packed(attention.wo),
            ffn_norm=VectorNorm.of(block.ffn_norm),
            gate_up=PackedLinear(_gate_up(block)),
            down=_packed(ffn.w2),
        )

    def heads_of(self, x: Tensor, sizes: BlockConfig) -> Tensor:
        """Queries, keys and values ``[n, (H + 2 G) * D]`` of inputs ``[n, dim]``, not rotated."""
        normed = torch.empty_like(x)
        self.attention_norm.into(x, normed, x.new_empty(len(x), 1))
        qkv = self.wqkv(normed)
        if self.qk_norm is not None:
            qk = qkv.unflatten(1, (-1, sizes.head_dim))[:, : sizes.n_head + sizes.n_local_heads]
            self.qk_norm.into(qk, qk, qk.new_empty(*qk.shape[:2], 1))
        return qkv


@dataclass(frozen=True, slots=True)
class PackedNetwork:
    """Both transformers.

    Attributes:
        embeddings: ``[V, dim]``, of tokens.
        codebook_embeddings: ``[K * codebook_size, dim]``.
        codebook_size: Rows of each codebook in it.
        audio_divisor: What the sum of a frame's embeddings is divided by.
        slow: Blocks of the transformer over time.
        slow_sizes: Their sizes.
        norm: Behind them.
        semantic_head: ``dim`` to ``num_semantic + 1``.
        is_fast_input_normed: Whether the fast transformer reads normalized hidden states.
        fast_project_in: ``dim`` to ``fast_dim``; None where they are equal.
        fast_embeddings: ``[codebook_size, fast_dim]``.
        fast_heads: ``[codebook_size, (H + 2 G) * D]``, what the first fast block makes of them
            before the rotation: it depends on the code alone.
        fast: Blocks of the transformer over codebooks.
        fast_sizes: Their sizes.
        fast_norm: Behind them.
        fast_head: ``fast_dim`` to ``num_residual``.
        rope: ``[positions, 1, D // 2]`` complex, turns of the slow transformer.
        fast_rope: ``[K, 1, D // 2]``, likewise of the fast one.
    """

    embeddings: Tensor
    codebook_embeddings: Tensor
    codebook_size: int
    audio_divisor: float
    slow: tuple[PackedBlock, ...]
    slow_sizes: BlockConfig
    norm: VectorNorm
    semantic_head: PackedLinear
    is_fast_input_normed: bool
    fast_project_in: PackedLinear | None
    fast_embeddings: Tensor
    fast_heads: Tensor
    fast: tuple[PackedBlock, ...]
    fast_sizes: BlockConfig
    fast_norm: VectorNorm
    fast_head: PackedLinear
    rope: Tensor
    fast_rope: Tensor

    @classmethod
    def of(cls, model: DualAR) -> PackedNetwork:
        """Pack a network with bound tokens, whose weights are float32 and exact in float16."""
        assert model.semantic_head is not None
        config, project = model.config, model.fast_project_in
        divisor = math.sqrt(config.num_codebooks + 1) if config.scale_codebook_embeddings else 1.0
        codes, fast = model.fast_embeddings.weight.detach(), _packed_blocks(model.fast_layers)
        return cls(
            embeddings=model.embeddings.weight.detach(),
            codebook_embeddings=model.codebook_embeddings.weight.detach(),
            codebook_size=config.codebook_size,
            audio_divisor=divisor,
            slow=_packed_blocks(model.layers),
            slow_sizes=config.slow_block,
            norm=VectorNorm.of(model.norm),
            semantic_head=PackedLinear(model.semantic_head),
            is_fast_input_normed=config.norm_fastlayer_input,
            fast_project_in=_packed(project) if isinstance(project, nn.Linear) else None,
            fast_embeddings=codes,
            fast_heads=fast[0].heads_of(codes, config.fast_block),
            fast=fast,
            fast_sizes=config.fast_block,
            fast_norm=VectorNorm.of(model.fast_norm),
            fast_head=PackedLinear(model.fast_output.weight[: model.residual_size]),
            rope=rotation_table(model.rope),
            fast_rope=rotation_table(model.fast_rope),
        )

    def linears(self) -> Iterator[PackedLinear]:
        """Every packed layer."""
        yield self.semantic_head
        yield self.fast_head
        if self.fast_project_in is not None:
            yield self.fast_project_in
        for block in (*self.slow, *self.fast):
            yield from (block.wqkv, block.wo, block.gate_up, block.down)


def rotation_table(rope: Tensor) -> Tensor:
    """A rotary table ``[positions, D // 2, 2]`` as complex numbers ``[positions, 1, D // 2]``."""
    return torch.view_as_complex(rope.contiguous())[:, None]


def _packed_blocks(blocks: nn.ModuleList) -> tuple[PackedBlock, ...]:
    return tuple(PackedBlock.of(block) for block in blocks)  # pyright: ignore[reportArgumentType]


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
