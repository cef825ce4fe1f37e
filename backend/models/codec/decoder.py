"""Latents to samples, the encoder's way back.

Source:
    Layout and parameter names after fish-speech 0.1.0 (Apache-2.0),
    ``models/dac/modded_dac.py``, ``Decoder``; the code is our own. Difference: the last
    convolution and the tanh run in float32 whatever the rest runs in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.codec.encoder import DILATIONS
from backend.models.codec.layers import (
    CausalConv1d,
    CausalConvTranspose1d,
    ResidualUnit,
    Snake,
    widened,
    with_past,
)

if TYPE_CHECKING:
    from backend.models.codec.config import CodecConfig
    from backend.models.codec.state import Histories


class DecoderBlock(nn.Module):
    """An upsampling convolution that halves the channels, then three residual units."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        halved = channels // 2
        self.block = nn.ModuleList(
            [Snake(channels), CausalConvTranspose1d(channels, halved, 2 * stride, stride)]
        )
        self.block.extend(ResidualUnit(halved, dilation) for dilation in DILATIONS)

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Map ``[B, C, T]`` to ``[B, C / 2, T * stride]``."""
        snake, *convolutions = self.block
        x = snake(x)
        for layer in convolutions:
            x = layer(x, histories)
        return x


class OutputConv1d(CausalConv1d):
    """The convolution that makes samples, in float32.

    Its output *is* the sound: in bfloat16 every sample would be rounded to 8 bits, which alone
    caps the signal-to-noise ratio near 56 dB (16-bit audio has 98). It is under 0.1 % of the
    decoder's work, so float32 costs nothing.
    """

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Map ``[B, C, T]`` of any float dtype to ``[B, 1, T]`` float32."""
        x = with_past(widened(x), self.history_length, histories)
        bias = self.conv.bias
        assert bias is not None
        return F.conv1d(x, widened(self.conv.weight), widened(bias))


class Decoder(nn.Module):
    """The whole way from upsampled latents to samples."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        self.model = nn.ModuleList([CausalConv1d(config.latent_dim, channels, 7)])
        for stride in config.decoder_rates:
            self.model.append(DecoderBlock(channels, stride))
            channels //= 2
        self.model.append(Snake(channels))
        self.model.append(OutputConv1d(channels, 1, 7))

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Map latents ``[B, C, T]`` to samples ``[B, 1, T * hop_length]``, float32 in -1..1."""
        for layer in self.model:
            x = layer(x) if isinstance(layer, Snake) else layer(x, histories)
        return torch.tanh(x)
