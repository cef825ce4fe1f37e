"""A causal transformer in which a position sees itself and the ``window - 1`` before it.

It sits before and after the codes (window of 128 frames in S1-mini) and at the end of the encoder
(512 steps). Memory grows with the length, not with its square: queries are taken in blocks of one
window, and each block meets only the keys that it can see.

Source:
    Parameter names and arithmetic after fish-speech 0.1.0 (Apache-2.0),
    ``models/dac/modded_dac.py``, ``WindowLimitedTransformer``. The code is our own. Differences:
    no limit on the length (there: a table of 4096 positions), no dense ``T x T`` mask, streaming.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.codec.layers import widened
from backend.models.codec.rope import RotaryTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.models.codec.config import TransformerConfig
    from backend.models.codec.state import AttentionState

    FinishBlock: TypeAlias = Callable[["TransformerBlock", Tensor, Tensor], Tensor]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.full((), -torch.inf, dtype=dtype, device=mask.device)
    return torch.where(mask, hidden.new_zeros(()), hidden)


class QueryBlock(NamedTuple):
    """Which keys a run of queries meets.

    Attributes:
        queries: Range of the new positions.
        keys: Range of the past and new positions together.
        mask: True where a query sees a key: ``[T', S']``, or ``[B, 1, T', S']`` in a stream.
    """

    queries: slice
    keys: slice
    mask: Tensor


def window_blocks(
    num_queries: int, window: int, num_past: int, positions: Tensor | None, device: torch.device
) -> list[QueryBlock]:
    """Cut the queries of a call into blocks and say what each block sees.

    Args:
        num_queries: New positions.
        window: Positions that a query sees, itself included.
        num_past: Keys in front of the new ones.
        positions: ``[B]`` int64: real positions among the past of each row (the rest of the past
            is unused room and stays hidden), or None when there is no past.
        device: Where the masks are wanted.
    """
    blocks = []
    for start in range(0, num_queries, window):
        stop = min(start + window, num_queries)
        first_key = max(0, start + num_past - (window - 1))
        queries = torch.arange(start + num_past, stop + num_past, device=device)[:, None]
        keys = torch.arange(first_key, stop + num_past, device=device)[None, :]
        distance = queries - keys
        mask = (distance >= 0) & (distance < window)
        if positions is not None:
            is_real = keys - num_past + positions[:, None] >= 0
            mask = mask & is_real[:, None, None, :]
        blocks.append(QueryBlock(slice(start, stop), slice(first_key, stop + num_past), mask))
    return blocks


def attend(q: Tensor, k: Tensor, v: Tensor, blocks: list[QueryBlock]) -> Tensor:
    """Attend within the window.

    Args:
        q: ``[B, H, T, D]``.
        k: ``[B, H, P + T, D]``, the past first.
        v: As ``k``.
        blocks: From ``window_blocks`` for the same T and P.

    Returns:
        ``[B, H, T, D]``.
    """
    parts = [
        F.scaled_dot_product_attention(
            q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=mask
        )
        for queries, keys, mask in blocks
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class RMSNorm(nn.Module):
    """Division by the root mean square, computed in float32, then a weight per channel."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        if x.is_cuda:  # one kernel, in float32 inside
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(widened(x), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class LayerScale(nn.Module):
    """A learned factor per channel on what a branch adds."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, branch: Tensor, x: Tensor) -> Tensor:
        """Give ``x + gamma * branch``."""
        return torch.addcmul(x, branch, self.gamma)


class Attention(nn.Module):
    """Multi-head attention with RoPE, without biases."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        inner = config.n_head * config.head_dim
        self.n_head, self.head_dim = config.n_head, config.head_dim
        self.wqkv = nn.Linear(config.dim, 3 * inner, bias=False)
        self.wo = nn.Linear(inner, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        turns: Tensor,
        blocks: list[QueryBlock],
        past: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Map ``[B, T, C]`` to ``[B, T, H * D]``, for ``wo``.

        Args:
            x: Inputs.
            turns: RoPE factors of the T positions, see ``RotaryTable``.
            blocks: What each query sees.
            past: Keys and values ``[B, H, P, D]`` before ``x``, replaced by the newest P.
        """
        qkv = self.wqkv(x).unflatten(-1, (3, self.n_head, self.head_dim))  # [B, T, 3, H, D]
        qk = rotate(qkv[:, :, :2], turns)
        q, k = qk[:, :, 0].transpose(1, 2), qk[:, :, 1].transpose(1, 2)
        v = qkv[:, :, 2].transpose(1, 2)
        if past is not None:
            k, v = _append(past[0], k), _append(past[1], v)
        return attend(q, k, v, blocks).transpose(1, 2).flatten(2)


def _append(past: Tensor, new: Tensor) -> Tensor:
    joined = torch.cat((past, new), dim=2)
    past.copy_(joined[:, :, joined.shape[2] - past.shape[2] :])
    return joined


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of neighboring channels of ``[B, T, N, H, D]`` by the factors of its position.

    The product runs in float32 at least and is rounded once, to the dtype of ``x``.
    """
    pairs = torch.view_as_complex(widened(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[..., None, None, :]).flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    """The gated network ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.dim, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, C]`` to the same shape."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and scaled before it is added."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention_layer_scale = LayerScale(config.dim)
        self.ffn_layer_scale = LayerScale(config.dim)
        self.finish: FinishBlock = plain_finish
        """What comes behind the attention: see ``Codec.compile_layers``."""

    def forward(
        self,
        x: Tensor,
        turns: Tensor,
        blocks: list[QueryBlock],
        past: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Map ``[B, T, C]`` to the same shape; arguments as in ``Attention``."""
        mixed = self.attention(self.attention_norm(x), turns, blocks, past)
        return self.finish(self, x, mixed)


def plain_finish(block: TransformerBlock, x: Tensor, mixed: Tensor) -> Tensor:
    """Add what was attended to, ``[B, T, H * D]``, and the feed-forward to ``x`` ``[B, T, C]``."""
    x = block.attention_layer_scale(block.attention.wo(mixed), x)
    return block.ffn_layer_scale(block.feed_forward(block.ffn_norm(x)), x)


class WindowTransformer(nn.Module):
    """Blocks of window-limited attention and a final norm, over ``[B, T, C]``."""

    def __init__(self, config: TransformerConfig, input_dim: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        has_own_width = input_dim != config.dim
        self.input_proj = nn.Linear(input_dim, config.dim) if has_own_width else nn.Identity()
        self.output_proj = nn.Linear(config.dim, input_dim) if has_own_width else nn.Identity()
        self.rotary = RotaryTable(config.head_dim, config.rope_base)
        self.rounds_products = False
        """Whether a card may round float32 to TF32 in the layers, as it does in convolutions."""

    def forward(self, x: Tensor, state: AttentionState | None = None) -> Tensor:
        """Map ``[B, T, C]`` to the same shape.

        Args:
            x: A whole signal, or the next part of the stream that ``state`` stands for.
            state: The past of the stream; advanced by T.
        """
        num_positions = x.shape[1]
        window = self.config.window_size
        if state is None:
            turns = self.rotary.first(num_positions, x.device)[None]
            blocks = window_blocks(num_positions, window, 0, None, x.device)
        else:
            turns = self.rotary.following(state, num_positions)
            blocks = window_blocks(num_positions, window, window - 1, state.positions, x.device)
        if x.is_cuda:  # else every layer would turn its masks of booleans into numbers
            blocks = [block._replace(mask=_additive(block.mask, x.dtype)) for block in blocks]
        with _tf32_products() if self.rounds_products else nullcontext():
            h = self.input_proj(x)
            for idx, layer in enumerate(self.layers):
                past = None if state is None else (state.keys[idx], state.values[idx])
                h = layer(h, turns, blocks, past)
            h = self.output_proj(self.norm(h))
        if state is not None:
            state.advance(num_positions)
        return h


@contextmanager
def _tf32_products() -> Iterator[None]:
    """Let float32 matrix products on a card run in TF32 meanwhile."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
