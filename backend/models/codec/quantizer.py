"""Latents to codes and back: downsampling, one semantic and several residual codebooks, upsampling.

Source:
    Layout and parameter names after fish-speech 0.1.0 (Apache-2.0), ``models/dac/rvq.py``,
    ``DownsampleResidualVectorQuantize``; the code is our own. Differences: encoding stops at the
    codes (there it also runs the decoder's transformer and throws the result away); the residual
    is reduced by the codebook's own vector, without the straight-through detour of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.codec.layers import CausalConv1d, CausalConvTranspose1d, ConvNeXtBlock, widened
from backend.models.codec.transformer import WindowTransformer
from backend.models.joining import joined, summed

if TYPE_CHECKING:
    from backend.models.codec.config import CodecConfig
    from backend.models.codec.state import AttentionState, Histories


class VectorQuantizer(nn.Module):
    """One codebook of short vectors, with the projections into and out of its space.

    Float32 throughout: it is little work, and a rounded residual picks other codes.
    """

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        # 1x1 convolutions by name and shape; applied as matrices over the last dimension.
        self.in_proj = nn.Conv1d(dim, codebook_dim, 1)
        self.out_proj = nn.Conv1d(codebook_dim, dim, 1)
        self.codebook = _codebook(codebook_size, codebook_dim)

    def nearest(self, latents: Tensor) -> Tensor:
        """Give the code whose vector points most nearly where each latent points.

        Args:
            latents: ``[B, F, C]`` float32.

        Returns:
            ``[B, F]`` int64. The smallest distance between unit vectors is the largest cosine,
            and the length of the projected latent does not move the maximum.
        """
        projected = _apply(self.in_proj, latents)
        return (projected @ F.normalize(widened(self.codebook.weight)).t()).argmax(dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Give what ``codes [B, F]`` stand for, ``[B, F, C]`` float32.

        Codes beyond the codebook mean its last entry, as in the official decoder; an index out
        of range would poison a CUDA context.
        """
        codes = codes.clamp(0, self.codebook.num_embeddings - 1)
        return _apply(self.out_proj, F.embedding(codes, widened(self.codebook.weight)))


def _codebook(num_entries: int, width: int) -> nn.Embedding:
    """Random entries; none on the meta device, where drawing them imports the compiler."""
    table = torch.empty(num_entries, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding.from_pretrained(table, freeze=False)


def _apply(projection: nn.Conv1d, x: Tensor) -> Tensor:
    assert projection.bias is not None
    return F.linear(x, widened(projection.weight).squeeze(-1), widened(projection.bias))


class ResidualVectorQuantizer(nn.Module):
    """Codebooks that each describe what the ones before left over."""

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(
            VectorQuantizer(dim, codebook_size, codebook_dim) for _ in range(num_codebooks)
        )


class FoldedLookups(NamedTuple):
    """All codebooks as one table and one projection.

    Attributes:
        last: ``[K, 1]`` int64, the last entry of each codebook.
        first_row: ``[K, 1]`` int64, where each codebook begins in the table.
        table: ``[entries of all, width]`` float32.
        weight: ``[C, K * width]`` float32.
        bias: ``[C]`` float32.
    """

    last: Tensor
    first_row: Tensor
    table: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """Give the sum of what ``codes [B, K, F]`` stand for, ``[B, F, C]`` float32."""
        rows = torch.minimum(codes.clamp(min=0), self.last) + self.first_row
        vectors = F.embedding(rows.transpose(1, 2), self.table).flatten(2)
        return F.linear(vectors, self.weight, self.bias)


class Quantizer(nn.Module):
    """Everything between encoder and decoder.

    Args:
        config: Sizes.
        with_encoder: Whether to build the half that makes codes.
        with_decoder: Whether to build the half that reads them.
    """

    def __init__(
        self, config: CodecConfig, *, with_encoder: bool = True, with_decoder: bool = True
    ) -> None:
        super().__init__()
        dim, width = config.latent_dim, config.codebook_dim
        self.semantic_quantizer = ResidualVectorQuantizer(
            dim, 1, config.semantic_codebook_size, width
        )
        self.quantizer = ResidualVectorQuantizer(
            dim, config.n_codebooks, config.codebook_size, width
        )
        self.downsample: nn.ModuleList | None = None
        self.pre_module: WindowTransformer | None = None
        if with_encoder:
            self.downsample = nn.ModuleList(
                nn.ModuleList([CausalConv1d(dim, dim, f, stride=f), ConvNeXtBlock(dim)])
                for f in config.downsample_factor
            )
            self.pre_module = WindowTransformer(config.transformer, dim)
        self.post_module: WindowTransformer | None = None
        self.upsample: nn.ModuleList | None = None
        if with_decoder:
            self.post_module = WindowTransformer(config.transformer, dim)
            self.upsample = nn.ModuleList(
                nn.ModuleList([CausalConvTranspose1d(dim, dim, f, f), ConvNeXtBlock(dim)])
                for f in reversed(config.downsample_factor)
            )
        self._folded: FoldedLookups | None = None

    def codebooks(self) -> list[VectorQuantizer]:
        """Every codebook, in the order of the rows of ``codes``."""
        return [*self.semantic_quantizer.quantizers, *self.quantizer.quantizers]  # pyright: ignore[reportReturnType]

    def quantize(
        self,
        latents: Tensor,
        attention: AttentionState | None = None,
        histories: Histories | None = None,
    ) -> Tensor:
        """Turn the encoder's latents into codes.

        Args:
            latents: ``[B, C, T]``; T is a multiple of the downsampling.
            attention: The past of ``pre_module``, in a stream.
            histories: The past of the convolutions, in a stream.

        Returns:
            ``[B, K, F]`` int64.
        """
        assert self.downsample is not None
        assert self.pre_module is not None
        for stage in self.downsample:
            for layer in stage:  # pyright: ignore[reportGeneralTypeIssues]
                latents = layer(latents, histories)
        residual = widened(self.pre_module(latents.transpose(1, 2), attention))
        codes = []
        for codebook in self.codebooks():
            codes.append(codebook.nearest(residual))
            residual = residual - codebook.lookup(codes[-1])
        return torch.stack(codes, dim=1)

    def upsampled(
        self,
        codes: Tensor,
        attention: AttentionState | None = None,
        histories: Histories | None = None,
    ) -> Tensor:
        """Turn codes into the decoder's latents.

        Args:
            codes: ``[B, K, F]`` int64.
            attention: The past of ``post_module``, in a stream.
            histories: The past of the convolutions, in a stream.

        Returns:
            ``[B, C, F * downsampling]`` in the dtype of the transformer.
        """
        assert self.post_module is not None
        assert self.upsample is not None
        latents = self._looked_up(codes).to(self.post_module.norm.weight.dtype)
        x = self.post_module(latents, attention).transpose(1, 2)
        for stage in self.upsample:
            for layer in stage:  # pyright: ignore[reportGeneralTypeIssues]
                x = layer(x, histories)
        return x

    def fold_lookups(self) -> None:
        """Look codes up in one table from now on; call again when the weights have changed.

        The same sum in another order (5 kernels instead of 5 per codebook).
        """
        self._folded = self.folded_lookups()

    def folded_lookups(self) -> FoldedLookups:
        """Give all codebooks as one table and one projection."""
        books = self.codebooks()
        weights = [widened(book.codebook.weight) for book in books]
        sizes = torch.tensor([weight.shape[0] for weight in weights])
        # Never inference tensors, as the weights themselves.
        with torch.inference_mode(mode=False), torch.no_grad():
            device = weights[0].device
            projections = [widened(book.out_proj.weight).squeeze(-1) for book in books]
            biases = [
                widened(book.out_proj.bias) for book in books if book.out_proj.bias is not None
            ]
            return FoldedLookups(
                last=(sizes - 1)[:, None].to(device),
                first_row=(sizes.cumsum(0) - sizes)[:, None].to(device),
                table=joined(weights),
                weight=joined(projections, dim=1),
                bias=summed(biases),
            )

    def _looked_up(self, codes: Tensor) -> Tensor:
        """Give the sum of what ``codes [B, K, F]`` stand for, ``[B, F, C]`` float32."""
        if self._folded is not None:
            return self._folded(codes)
        semantic, *residual = self.codebooks()
        latents = semantic.lookup(codes[:, 0])
        for idx, codebook in enumerate(residual, start=1):
            latents = latents + codebook.lookup(codes[:, idx])
        return latents
