"""The codec's quantizer in training form: down, transformer, codebooks, transformer, up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.codec_net import CausalConv, CausalUpsample, CodecSizes
from scripts.pocket.lm_net import RMSNorm, apply_rope, rope_table


class LayerScale(nn.Module):
    """A learned factor per channel that starts small."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension."""
        return x * self.gamma


class WindowAttention(nn.Module):
    """Causal attention over the last ``window_size`` frames."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self._heads, width = sizes.n_head, sizes.n_head * sizes.head_dim
        self.wqkv = nn.Linear(sizes.dim, 3 * width, bias=False)
        self.wo = nn.Linear(width, sizes.dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """``[B, F, dim]`` in and out; ``mask`` ``[F, F]`` is true where a frame is seen."""
        q, k, v = (z.unflatten(-1, (self._heads, -1)) for z in self.wqkv(x).chunk(3, -1))
        q, k = apply_rope(q, table).to(v.dtype), apply_rope(k, table).to(v.dtype)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )
        return self.wo(y.transpose(1, 2).flatten(2))


class WindowFeedForward(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self.w1 = nn.Linear(sizes.dim, sizes.intermediate_size, bias=False)
        self.w3 = nn.Linear(sizes.dim, sizes.intermediate_size, bias=False)
        self.w2 = nn.Linear(sizes.intermediate_size, sizes.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, F, dim]`` in and out."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class WindowBlock(nn.Module):
    """Attention and feed-forward, each with a layer scale."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self.attention, self.feed_forward = WindowAttention(sizes), WindowFeedForward(sizes)
        self.attention_norm = RMSNorm(sizes.dim, sizes.norm_eps)
        self.ffn_norm = RMSNorm(sizes.dim, sizes.norm_eps)
        self.attention_layer_scale = LayerScale(sizes.dim)
        self.ffn_layer_scale = LayerScale(sizes.dim)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """``[B, F, dim]`` in and out."""
        x = x + self.attention_layer_scale(self.attention(self.attention_norm(x), table, mask))
        return x + self.ffn_layer_scale(self.feed_forward(self.ffn_norm(x)))


class WindowTransformer(nn.Module):
    """Transformer over frames, ``[B, C, T]`` in and out."""

    table: Tensor

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(WindowBlock(sizes) for _ in range(sizes.n_layer))
        self.norm = RMSNorm(sizes.dim, sizes.norm_eps)
        width = sizes.latent_dim
        self.input_proj = nn.Linear(width, sizes.dim) if width != sizes.dim else nn.Identity()
        self.output_proj = nn.Linear(sizes.dim, width) if width != sizes.dim else nn.Identity()
        self._window = sizes.window_size
        table = rope_table(sizes.block_size, sizes.head_dim, sizes.rope_base)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, latent_dim, F]`` in and out."""
        h = self.input_proj(x.transpose(1, 2))
        position = torch.arange(h.shape[1], device=h.device)
        distance = position[:, None] - position[None]
        mask = (distance >= 0) & (distance < self._window)
        for layer in self.layers:
            h = layer(h, self.table[: h.shape[1]], mask)
        return self.output_proj(self.norm(h)).transpose(1, 2)


class ConvNeXt(nn.Module):
    """Depthwise convolution and a wide pointwise network beside an identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = CausalConv(dim, dim, 7, groups=dim, is_normed=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 1, T]`` in and out."""
        h = self.norm(self.dwconv(x).squeeze(2).transpose(1, 2))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2).unsqueeze(2)


class Pointwise(nn.Module):
    """1x1 convolution; in files it carries the classic weight norm's names."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 1) * c_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, T]`` to ``[B, C_out, T]``."""
        return F.conv1d(x, self.weight, self.bias)


@dataclass
class Quantized:
    """What the codebooks made of latents ``[B, C, T]``.

    Attributes:
        latents: ``[B, C, T]`` quantized, gradients passed straight through.
        semantic: ``[B, C, T]`` the part that the semantic codebook gives.
        codes: ``[B, K, T]`` int64.
        commit: how far the encoder's vectors are from their codes.
        codebook: how far the codes are from the encoder's vectors.
        projected: per codebook ``[B * T, D]``, what was quantized.
    """

    latents: Tensor
    semantic: Tensor
    codes: Tensor
    commit: Tensor
    codebook: Tensor
    projected: list[Tensor]


class VectorQuantizer(nn.Module):
    """One codebook behind a low-dimensional projection; the nearest entry by cosine is taken."""

    usage: Tensor

    def __init__(self, dim: int, size: int, code_dim: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = Pointwise(dim, code_dim), Pointwise(code_dim, dim)
        self.codebook = nn.Embedding(size, code_dim)
        self.register_buffer("usage", torch.zeros(size), persistent=False)

    def nearest(self, flat: Tensor) -> Tensor:
        """Index of the nearest entry for each row of ``[N, D]``."""
        return (F.normalize(flat) @ F.normalize(self.codebook.weight).t()).argmax(-1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``[B, C, T]`` -> quantized ``[B, C, T]``, projected, entries ``[B, D, T]``, codes."""
        e = self.in_proj(z)
        flat = e.transpose(1, 2).flatten(0, 1)
        idx = self.nearest(flat)
        if self.training:
            with torch.no_grad():
                self.usage.mul_(0.99).index_add_(0, idx, torch.ones_like(self.usage[idx]))
        q = self.codebook(idx).view(e.shape[0], -1, e.shape[1]).transpose(1, 2)
        return self.out_proj(e + (q - e).detach()), e, q, idx.view(e.shape[0], -1)

    @torch.no_grad()
    def fit(self, z: Tensor, *, by_variance: bool, rounds: int = 12) -> Tensor:
        """Start from data ``[N, C]``: spherical k-means entries.

        ``by_variance`` takes the projections from the principal axes; otherwise they stay and
        the best linear way back from the entries is fitted. Returns what is left of ``z``.
        """
        if by_variance:
            self._project_on_axes(z)
        e = self.in_proj(z.t()[None])[0].t()
        size, device = self.codebook.num_embeddings, z.device
        entries = e[torch.randint(len(e), (size,), device=device)].clone()
        self.codebook.weight.copy_(entries)
        for _ in range(rounds):
            idx = self.nearest(e)
            count = torch.zeros(size, device=device).index_add_(0, idx, torch.ones_like(e[:, 0]))
            mean = torch.zeros_like(entries).index_add_(0, idx, e) / count.clamp(min=1)[:, None]
            fresh = e[torch.randint(len(e), (size,), device=device)]
            self.codebook.weight.copy_(torch.where((count > 0)[:, None], mean, fresh))
        self.usage.fill_(1.0)
        q = self.codebook(self.nearest(e))
        if not by_variance:
            self._fit_way_back(q, z)
        return z - self.out_proj(q.t()[None])[0].t()

    def _project_on_axes(self, z: Tensor) -> None:
        mean = z.mean(0)
        picked = torch.randperm(len(z), device=z.device)[:8192]
        _, _, axes = torch.linalg.svd((z - mean)[picked], full_matrices=False)
        axes = axes[: self.codebook.embedding_dim]
        self.in_proj.weight.copy_(axes[..., None])
        self.in_proj.bias.copy_(-(axes @ mean))
        self.out_proj.weight.copy_(axes.t()[..., None])
        self.out_proj.bias.copy_(mean)

    def _fit_way_back(self, q: Tensor, z: Tensor) -> None:
        rows = torch.cat([q, torch.ones_like(q[:, :1])], 1)
        ridge = 1e-4 * len(rows) * torch.eye(rows.shape[1], device=z.device)
        weight = torch.linalg.solve(rows.t() @ rows + ridge, rows.t() @ z)
        self.out_proj.weight.copy_(weight[:-1].t()[..., None])
        self.out_proj.bias.copy_(weight[-1])

    @torch.no_grad()
    def revive(self, projected: Tensor, floor: float = 0.02) -> int:
        """Entries that are hardly used take the place of random inputs; returns how many."""
        dead = (self.usage < floor).nonzero()[:, 0]
        if len(dead):
            picked = torch.randint(len(projected), (len(dead),), device=projected.device)
            self.codebook.weight[dead] = projected[picked].to(self.codebook.weight.dtype)
            self.usage[dead] = 1.0
        return len(dead)


class ResidualQuantizer(nn.Module):
    """Codebooks in a row; each quantizes what the ones before left."""

    def __init__(self, dim: int, count: int, size: int, code_dim: int) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(VectorQuantizer(dim, size, code_dim) for _ in range(count))


class Quantizer(nn.Module):
    """Downsampling, transformer, semantic and residual codebooks, transformer, upsampling."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        dim, code_dim = sizes.latent_dim, sizes.codebook_dim
        self.semantic_quantizer = ResidualQuantizer(dim, 1, sizes.semantic_codebook_size, code_dim)
        self.quantizer = ResidualQuantizer(dim, sizes.n_codebooks, sizes.codebook_size, code_dim)
        self.downsample = nn.Sequential(
            *(
                nn.Sequential(CausalConv(dim, dim, f, f, is_normed=False), ConvNeXt(dim))
                for f in sizes.downsample_factor
            )
        )
        self.upsample = nn.Sequential(
            *(
                nn.Sequential(CausalUpsample(dim, dim, f, f, is_normed=False), ConvNeXt(dim))
                for f in reversed(sizes.downsample_factor)
            )
        )
        self.pre_module, self.post_module = WindowTransformer(sizes), WindowTransformer(sizes)
        self._dropout = sizes.quantizer_dropout

    @property
    def codebooks(self) -> list[VectorQuantizer]:
        """All codebooks, the semantic one first."""
        both = (*self.semantic_quantizer.quantizers, *self.quantizer.quantizers)
        return [book for book in both if isinstance(book, VectorQuantizer)]

    def condense(self, z: Tensor) -> Tensor:
        """Encoder output to the latents that are quantized, float32 ``[B, C, F]``."""
        return self.pre_module(self.downsample(z.unsqueeze(2)).squeeze(2)).float()

    def expand(self, z: Tensor) -> Tensor:
        """Quantized latents to what the decoder takes."""
        return self.upsample(self.post_module(z).unsqueeze(2)).squeeze(2)

    def straight(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The semantic projection without quantizing, and how badly it gives ``z`` back."""
        first = self.codebooks[0]
        semantic = first.out_proj(first.in_proj(z))
        return semantic, F.mse_loss(semantic, z.detach())

    def quantize(self, z: Tensor) -> Quantized:
        """Quantize latents ``[B, C, F]``; call outside autocast.

        In training a share of the items keeps only the first few residual codebooks, so that
        the first ones carry most.
        """
        books, batch = self.codebooks, len(z)
        keep = torch.ones(len(books), batch, device=z.device)
        if self.training and self._dropout > 0:
            some = int(batch * self._dropout)
            last = torch.randint(1, len(books), (some,), device=z.device)
            order = torch.arange(len(books), device=z.device)[:, None]
            keep = torch.cat([(order <= last[None]).float(), keep[:, some:]], 1)
        left, total, semantic = z, torch.zeros_like(z), z
        codes, commit, codebook, projected = [], z.new_zeros(()), z.new_zeros(()), []
        for i, book in enumerate(books):
            out, e, q, idx = book(left)
            total = total + out * keep[i, :, None, None]
            left = left - out
            semantic = out if i == 0 else semantic
            commit = commit + ((e - q.detach()).square().mean((1, 2)) * keep[i]).mean()
            codebook = codebook + ((q - e.detach()).square().mean((1, 2)) * keep[i]).mean()
            codes.append(idx)
            projected.append(e.detach().transpose(1, 2).flatten(0, 1))
        return Quantized(total, semantic, torch.stack(codes, 1), commit, codebook, projected)

    def look_up(self, codes: Tensor) -> Tensor:
        """Latents ``[B, C, F]`` of codes ``[B, K, F]``."""
        parts = (
            book.out_proj(book.codebook(codes[:, i]).transpose(1, 2))
            for i, book in enumerate(self.codebooks)
        )
        return torch.stack(list(parts)).sum(0)

    @torch.no_grad()
    def fit(self, z: Tensor) -> list[float]:
        """Start all codebooks from latents ``[N, C]``; returns the variance left after each."""
        whole, left = float(z.var(0).sum()), []
        for i, book in enumerate(self.codebooks):
            z = book.fit(z, by_variance=i > 0)
            left.append(float(z.var(0).sum()) / whole)
        return left
