"""The codec's network in training form: encoder, decoder and their causal convolutions.

Structure and parameter names are those of the S1 codec at a smaller config, so a trained state
loads in every S1 codec class. Here weights are plain tensors; ``export`` turns them into the
weight-normed pairs of the official files. Signals run as ``[B, C, 1, T]`` images, because the GPU's
convolutions are fastest on channels-last images; the quantizer works on ``[B, C, T]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class CodecSizes:
    """Config of the codec; the field names are those of the official schema.

    ``quantizer_dropout`` is the share of training items that keep only the first few codebooks,
    ``block_size`` the length of the official class's tables.
    """

    sample_rate: int = 16000
    encoder_dim: int = 16
    encoder_rates: tuple[int, ...] = (2, 4, 4, 5)
    latent_dim: int = 192
    decoder_dim: int = 384
    decoder_rates: tuple[int, ...] = (5, 4, 4, 2)
    n_codebooks: int = 7
    codebook_size: int = 512
    semantic_codebook_size: int = 512
    codebook_dim: int = 8
    quantizer_dropout: float = 0.3
    downsample_factor: tuple[int, ...] = (2, 2)
    n_layer: int = 2
    dim: int = 192
    n_head: int = 3
    head_dim: int = 64
    intermediate_size: int = 512
    window_size: int = 64
    block_size: int = 2048
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def frame_length(self) -> int:
        """Samples per frame of codes."""
        return math.prod(self.encoder_rates) * math.prod(self.downsample_factor)

    @property
    def num_codebooks(self) -> int:
        """The semantic codebook and the residual ones."""
        return 1 + self.n_codebooks


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """``x + sin(alpha x)^2 / alpha`` per channel."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


class _Activation:
    """The snake in use; ``compile_snake`` puts a fused one here."""

    function: Callable[[Tensor, Tensor], Tensor] = staticmethod(snake)


def compile_snake() -> None:
    """Use a fused snake from now on: one kernel instead of five."""
    torch._dynamo.config.recompile_limit = 256  # one entry per channel count and length
    _Activation.function = staticmethod(torch.compile(snake, dynamic=True))


class Snake(nn.Module):
    """Periodic activation with one learned frequency per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 1, T]`` in and out."""
        return _Activation.function(x, self.alpha[..., None].to(x.dtype))


def _image_weight(weight: Tensor, x: Tensor) -> Tensor:
    weight = weight.unsqueeze(2)
    if x.is_contiguous(memory_format=torch.channels_last) and x.shape[1] > 1:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight


class CausalConv(nn.Module):
    """Convolution that sees no sample after its own."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1,
        groups: int = 1, *, is_normed: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride, dilation=dilation, groups=groups)
        nn.init.normal_(self.conv.weight, std=(c_in // groups * kernel) ** -0.5)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.is_normed = is_normed
        self._stride, self._span = stride, (kernel - 1) * dilation + 1

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, 1, T]`` to ``[B, C_out, 1, ceil(T / stride)]``."""
        conv, left = self.conv, self._span - self._stride
        x = F.pad(x, (left, -(x.shape[-1] - self._stride) % self._stride))
        return F.conv2d(
            x, _image_weight(conv.weight, x), conv.bias, (1, self._stride), 0,
            (1, conv.dilation[0]), conv.groups,
        )  # fmt: skip


class CausalUpsample(nn.Module):
    """Transposed convolution; the samples that would need the future are cut off."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, *, is_normed: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(c_in, c_out, kernel, stride)
        nn.init.normal_(self.conv.weight, std=(c_in * kernel / stride) ** -0.5)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.is_normed = is_normed
        self._stride, self._cut = stride, kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, 1, T]`` to ``[B, C_out, 1, T * stride]``."""
        weight = _image_weight(self.conv.weight, x)
        y = F.conv_transpose2d(x, weight, self.conv.bias, (1, self._stride))
        return y[..., : y.shape[-1] - self._cut] if self._cut else y


class ResidualUnit(nn.Module):
    """Dilated convolution beside an identity; the branch starts small."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        last = CausalConv(channels, channels, 1)
        self.block = nn.Sequential(
            Snake(channels), CausalConv(channels, channels, 7, dilation=dilation),
            Snake(channels), last,
        )  # fmt: skip
        with torch.no_grad():
            last.conv.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 1, T]`` in and out."""
        return x + self.block(x)


def _residual_units(channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation) for dilation in (1, 3, 9)]


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution that doubles the channels."""

    def __init__(self, c_in: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *_residual_units(c_in), Snake(c_in),
            CausalConv(c_in, 2 * c_in, 2 * stride, stride), nn.Identity(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 1, T]`` to ``[B, 2 C, 1, T / stride]``."""
        return self.block(x)


class DecoderBlock(nn.Module):
    """A transposed convolution that halves the channels, then residual units."""

    def __init__(self, c_in: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(c_in), CausalUpsample(c_in, c_in // 2, 2 * stride, stride),
            *_residual_units(c_in // 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, 1, T]`` to ``[B, C / 2, 1, T * stride]``."""
        return self.block(x)


class Encoder(nn.Module):
    """Samples ``[B, 1, S]`` to latents ``[B, latent_dim, S / hop]``."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        channels = sizes.encoder_dim
        layers: list[nn.Module] = [CausalConv(1, channels, 7)]
        for stride in sizes.encoder_rates:
            layers.append(EncoderBlock(channels, stride))
            channels *= 2
        layers += [Snake(channels), CausalConv(channels, sizes.latent_dim, 3)]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Samples ``[B, 1, S]`` in."""
        return self.block(as_image(x)).squeeze(2)


class Decoder(nn.Module):
    """Latents ``[B, latent_dim, T]`` to samples ``[B, 1, T * hop]`` in -1..1.

    The last convolution starts quiet: with the usual initialization the tanh saturates, no
    gradient comes back and every frame ends on one code.
    """

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        channels = sizes.decoder_dim
        layers: list[nn.Module] = [CausalConv(sizes.latent_dim, channels, 7)]
        for stride in sizes.decoder_rates:
            layers.append(DecoderBlock(channels, stride))
            channels //= 2
        last = CausalConv(channels, 1, 7)
        with torch.no_grad():
            last.conv.weight.mul_(0.05)
        layers += [Snake(channels), last, nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Latents ``[B, latent_dim, T]`` in."""
        return self.model(as_image(z)).squeeze(2)


def as_image(x: Tensor) -> Tensor:
    """``[B, C, T]`` to ``[B, C, 1, T]``, channels last on a GPU."""
    image = x.unsqueeze(2)
    if image.is_cuda and image.shape[1] > 1:
        return image.contiguous(memory_format=torch.channels_last)
    return image
