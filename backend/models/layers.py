"""Building blocks of both transformers: norm, rotary positions, attention, feed-forward, block.

Keys and values live outside the modules, in whatever fulfils ``KeyValueStore``: a module is a
function of tensors and holds nothing of a request. Shape letters: ``B`` batch, ``T`` new positions,
``Tk`` visible positions, ``H`` query heads, ``G`` key/value heads, ``D`` head width.

Source: the numbers (which step is computed in which precision) follow fish-speech 0.1.0
(Apache-2.0), ``models/text2semantic/llama.py``; the code is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from backend.models.config import BlockConfig


class KeyValueStore(Protocol):
    """Where attention keeps what it has seen. One store serves one stack of layers."""

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions of one layer and return all that its queries may look at.

        Args:
            layer_idx: Index of the layer inside its stack.
            k: ``[B, G, T, D]`` keys, already normalized and rotated.
            v: ``[B, G, T, D]`` values.

        Returns:
            Keys and values, each ``[B, G, Tk, D]`` with ``Tk >= T``. Slots that a query must not
            see are hidden by the mask given to the forward pass.
        """
        ...


class RMSNorm(nn.Module):
    """Root-mean-square norm: computed in float32, rounded, then scaled in the input's type."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of ``x``; shape and dtype stay."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class HeadNorm(nn.Module):
    """Root-mean-square norm of one head: all in float32, rounded once at the end."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of ``x``; shape and dtype stay."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_table(num_positions: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """Cosine and sine of every rotary angle, rounded to bfloat16.

    The rounding is part of the trained model: exact tables garble long outputs. The table is
    computed on the CPU so that it is the same for every device.

    Returns:
        ``[num_positions, head_dim // 2, 2]`` bfloat16 on ``device``; the last axis is (cos, sin).
    """
    exponents = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32) / head_dim
    angles = torch.outer(
        torch.arange(num_positions, device="cpu", dtype=torch.float32), 1.0 / base**exponents
    )
    turns = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turns).to(torch.bfloat16).to(device)


def apply_rope(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate neighboring pairs ``(2j, 2j + 1)`` of every head, in float32.

    Args:
        x: ``[B, T, heads, D]``.
        angles: Rows of a ``rope_table``, ``[B, T, D // 2, 2]`` or ``[T, D // 2, 2]`` float32.

    Returns:
        Same shape and dtype as ``x``.
    """
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.unsqueeze(-3).unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention where several query heads share a key/value head.

    The query heads of a group are folded into the query axis, so keys and values are read where
    they lie and never repeated.

    Args:
        q: ``[B, H, T, D]``; query head ``h`` reads key/value head ``h // (H // G)``.
        k: ``[B, G, Tk, D]``.
        v: ``[B, G, Tk, D]``.
        mask: ``[B, 1, T, Tk]`` (any axis may be 1), bool (True = visible) or additive in ``q``'s
            dtype. None sees everything for ``T == 1`` and is causal for ``T == Tk``.

    Returns:
        ``[B, H, T, D]`` in ``q``'s dtype.

    Raises:
        ValueError: No mask, but ``1 < T < Tk``: which keys a query may see is then unknown.
    """
    num_heads, num_queries, num_groups = q.shape[1], q.shape[2], k.shape[1]
    if mask is None and num_queries > 1:
        if k.shape[2] != num_queries:
            raise ValueError(
                f"{num_queries} queries over {k.shape[2]} keys need a mask: "
                "causal attention without one starts from an empty store"
            )
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=num_heads != num_groups
        )
    if num_heads == num_groups:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    heads_per_group = num_heads // num_groups
    folded = q.unflatten(1, (num_groups, heads_per_group)).flatten(2, 3)  # [B, G, heads * T, D]
    if mask is not None and mask.shape[2] > 1:
        mask = mask.repeat(1, 1, heads_per_group, 1)
    out = F.scaled_dot_product_attention(folded, k, v, attn_mask=mask)
    return out.unflatten(2, (heads_per_group, num_queries)).flatten(1, 2)


class Attention(nn.Module):
    """Self-attention with grouped key/value heads, optional head norms and rotary positions."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.num_heads = config.n_head
        self.num_groups = config.n_local_heads
        self.head_dim = config.head_dim
        total_heads = config.n_head + 2 * config.n_local_heads
        self.wqkv = nn.Linear(config.dim, total_heads * config.head_dim, bias=config.qkv_bias)
        self.wo = nn.Linear(config.n_head * config.head_dim, config.dim, bias=config.o_bias)
        self.q_norm = HeadNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = HeadNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, angles: Tensor, layer_idx: int, store: KeyValueStore, mask: Tensor | None
    ) -> Tensor:
        """Attend from ``x`` ``[B, T, dim]`` to everything ``store`` returns; same shape out."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim))  # [B, T, H + 2G, D]
        q, k, v = heads.split([self.num_heads, self.num_groups, self.num_groups], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rope(q, angles), apply_rope(k, angles)
        keys, values = store.extend(layer_idx, k.transpose(1, 2), v.transpose(1, 2))
        mixed = grouped_attention(q.transpose(1, 2), keys, values, mask)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SiLU-gated feed-forward, no bias."""

    def __init__(self, dim: int, intermediate_size: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, intermediate_size, bias=False)
        self.w3 = nn.Linear(dim, intermediate_size, bias=False)
        self.w2 = nn.Linear(intermediate_size, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to the same shape."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads a normalized input and adds to the stream."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, config.intermediate_size)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self, x: Tensor, angles: Tensor, layer_idx: int, store: KeyValueStore, mask: Tensor | None
    ) -> Tensor:
        """Map ``[B, T, dim]`` to the same shape; ``store`` gains this layer's new positions."""
        x = x + self.attention(self.attention_norm(x), angles, layer_idx, store, mask)
        return x + self.feed_forward(self.ffn_norm(x))
