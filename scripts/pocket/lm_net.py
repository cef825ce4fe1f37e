"""The dual-AR network in training form: a slow transformer over time, a fast one over codebooks.

Structure and parameter names are those of the S1 model at a smaller config.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BYTES = 256
SPECIAL_TOKENS = [
    "begin_of_text",
    "end_of_text",
    "pad",
    "im_start",
    "im_end",
    "phoneme_start",
    "phoneme_end",
    "tool_call_start",
    "tool_call_end",
    "text",
    "voice",
    "interleave",
    "audio_start",
    "audio_end",
    "audio",
]
NUM_SPEAKER_TOKENS = 4


@dataclass(frozen=True)
class LMSizes:
    """Config of the model; text tokens are bytes, so the vocabulary follows from the codebooks."""

    dim: int = 320
    n_layer: int = 8
    n_head: int = 5
    head_dim: int = 64
    intermediate_size: int = 768
    n_fast_layer: int = 2
    fast_dim: int = 256
    fast_n_head: int = 4
    fast_head_dim: int = 64
    fast_intermediate_size: int = 512
    codebook_size: int = 512
    num_codebooks: int = 8
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    # The official package wants 2048 positions free behind a prompt.
    max_seq_len: int = 4096
    dropout: float = 0.1

    @property
    def tokens(self) -> list[str]:
        """All special tokens in the order of their ids, which start behind the bytes."""
        names = [f"<|{name}|>" for name in SPECIAL_TOKENS]
        names += [f"<|semantic:{i}|>" for i in range(self.codebook_size)]
        return names + [f"<|speaker:{i}|>" for i in range(NUM_SPEAKER_TOKENS)]

    @property
    def semantic_begin(self) -> int:
        """Token id of semantic code 0."""
        return NUM_BYTES + len(SPECIAL_TOKENS)

    @property
    def im_end(self) -> int:
        """Token id that ends an utterance."""
        return NUM_BYTES + SPECIAL_TOKENS.index("im_end")

    @property
    def interleave(self) -> int:
        """Token id that opens a prompt."""
        return NUM_BYTES + SPECIAL_TOKENS.index("interleave")

    @property
    def speaker(self) -> int:
        """Token id of ``<|speaker:0|>``."""
        return self.semantic_begin + self.codebook_size

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, a multiple of 32."""
        count = NUM_BYTES + len(self.tokens)
        return count + -count % 32


def rope_table(positions: int, head_dim: int, base: float) -> Tensor:
    """Cosines and sines ``[positions, head_dim / 2, 2]``, rounded to bfloat16 as S1's are."""
    rates = 1.0 / (base ** (torch.arange(0, head_dim, 2).float() / head_dim))
    angles = torch.outer(torch.arange(positions).float(), rates)
    return torch.stack([angles.cos(), angles.sin()], -1).to(torch.bfloat16).float()


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs of ``[B, T, H, D]`` by a table ``[T, D / 2, 2]`` or ``[B, T, D / 2, 2]``."""
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = table.unsqueeze(-3).unbind(-1)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Norm the last dimension; the type stays until the weight is applied."""
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).type_as(x) * self.weight


@dataclass
class KVCache:
    """Keys and values ``[B, H, N, D]`` of one layer, filled up to ``length``."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, T, D]`` and return all that is there."""
        stop = self.length + keys.shape[2]
        self.keys[:, :, self.length : stop] = keys
        self.values[:, :, self.length : stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


class Attention(nn.Module):
    """Multi-head attention with RoPE; queries and keys are normed in the slow transformer."""

    def __init__(self, dim: int, heads: int, head_dim: int, eps: float, *, has_norm: bool) -> None:
        super().__init__()
        self._heads = heads
        self.wqkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.wo = nn.Linear(heads * head_dim, dim, bias=False)
        self.q_norm = RMSNorm(head_dim, eps) if has_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps) if has_norm else nn.Identity()

    def forward(
        self, x: Tensor, table: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """``[B, T, dim]`` in and out; without a cache it is causal."""
        q, k, v = (z.unflatten(-1, (self._heads, -1)) for z in self.wqkv(x).chunk(3, -1))
        q = apply_rope(self.q_norm(q), table).to(v.dtype).transpose(1, 2)
        k = apply_rope(self.k_norm(k), table).to(v.dtype).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.extend(k, v)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.wo(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` in and out."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, hidden: int, eps: float, dropout: float,
        *, has_norm: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self._dropout = dropout
        self.attention = Attention(dim, heads, head_dim, eps, has_norm=has_norm)
        self.feed_forward = FeedForward(dim, hidden)
        self.attention_norm, self.ffn_norm = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def forward(
        self, x: Tensor, table: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """``[B, T, dim]`` in and out."""
        drop, on = self._dropout, self.training
        h = self.attention(self.attention_norm(x), table, cache, mask)
        x = x + F.dropout(h, drop, on)
        return x + F.dropout(self.feed_forward(self.ffn_norm(x)), drop, on)


class DualAR(nn.Module):
    """Slow transformer over prompt rows, fast transformer over the codebooks of a frame."""

    table: Tensor
    fast_table: Tensor
    shift: Tensor

    def __init__(self, sizes: LMSizes) -> None:
        super().__init__()
        self.sizes = s = sizes
        self.embeddings = nn.Embedding(s.vocab_size, s.dim)
        self.codebook_embeddings = nn.Embedding(s.codebook_size * s.num_codebooks, s.dim)
        self.layers = nn.ModuleList(
            Block(s.dim, s.n_head, s.head_dim, s.intermediate_size, s.norm_eps, s.dropout,
                  has_norm=True)
            for _ in range(s.n_layer)
        )  # fmt: skip
        self.norm = RMSNorm(s.dim, s.norm_eps)
        is_same = s.fast_dim == s.dim
        self.fast_project_in = nn.Identity() if is_same else nn.Linear(s.dim, s.fast_dim)
        self.fast_embeddings = nn.Embedding(s.codebook_size, s.fast_dim)
        self.fast_layers = nn.ModuleList(
            Block(s.fast_dim, s.fast_n_head, s.fast_head_dim, s.fast_intermediate_size,
                  s.norm_eps, 0.0, has_norm=False)
            for _ in range(s.n_fast_layer)
        )  # fmt: skip
        self.fast_norm = RMSNorm(s.fast_dim, s.norm_eps)
        self.fast_output = nn.Linear(s.fast_dim, s.codebook_size, bias=False)
        self._add_tables()
        self._initialize()

    def _add_tables(self) -> None:
        s = self.sizes
        slow = rope_table(s.max_seq_len, s.head_dim, s.rope_base)
        fast = rope_table(s.num_codebooks, s.fast_head_dim, s.rope_base)
        shift = torch.arange(s.num_codebooks)[:, None] * s.codebook_size
        self.register_buffer("table", slow, persistent=False)
        self.register_buffer("fast_table", fast, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                is_branch_end = name.endswith(("wo.weight", "w2.weight"))
                scale = 0.02 / math.sqrt(2 * self.sizes.n_layer) if is_branch_end else 0.02
                nn.init.normal_(parameter, 0.0, scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def embed(self, rows: Tensor) -> Tensor:
        """Prompt rows ``[B, 1 + K, T]`` to ``[B, T, dim]``."""
        s, token = self.sizes, rows[:, 0]
        is_frame = (token >= s.semantic_begin) & (token < s.speaker)
        x = self.embeddings(token)
        codes = self.codebook_embeddings(rows[:, 1:] + self.shift).sum(1)
        scaled = (x + codes) * (1.0 / math.sqrt(s.num_codebooks + 1))
        return F.dropout(torch.where(is_frame[..., None], scaled, x), s.dropout, self.training)

    def slow(
        self, rows: Tensor, table: Tensor | None = None, caches: list[KVCache] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Hidden states ``[B, T, dim]`` before the last norm, and after it."""
        x = self.embed(rows)
        table = self.table[: x.shape[1]] if table is None else table
        for i, layer in enumerate(self.layers):
            x = layer(x, table, caches[i] if caches else None, mask)
        return x, self.norm(x)

    def token_logits(self, normed: Tensor) -> Tensor:
        """Logits over all tokens; the output layer is the embedding."""
        return F.linear(normed, self.embeddings.weight)

    def fast(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits ``[N, K, codebook_size]``; position k, from 1 on, predicts codebook k.

        Args:
            hidden: ``[N, dim]`` slow states before the last norm.
            codes: ``[N, K - 1]`` the codes before.
        """
        start = self.fast_project_in(hidden)[:, None]
        x = torch.cat([start, self.fast_embeddings(codes).to(start.dtype)], 1)
        for layer in self.fast_layers:
            x = layer(x, self.fast_table)
        return self.fast_output(self.fast_norm(x))
