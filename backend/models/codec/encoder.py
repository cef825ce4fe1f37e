"""Samples to latents, 512 samples a step in S1-mini.

Source:
    Layout and parameter names after fish-speech 0.1.0 (Apache-2.0),
    ``models/dac/modded_dac.py``, ``Encoder``; the code is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from backend.models.codec.layers import CausalConv1d, ResidualUnit, Snake
from backend.models.codec.transformer import WindowTransformer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.models.codec.config import CodecConfig, TransformerConfig
    from backend.models.codec.state import AttentionState, Histories

DILATIONS = (1, 3, 9)
"""Of the three residual units in every encoder and decoder block."""


class EncoderBlock(nn.Module):
    """Three residual units, a strided convolution to twice the channels, maybe a transformer."""

    def __init__(self, channels: int, stride: int, transformer: TransformerConfig | None) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResidualUnit(channels, dilation) for dilation in DILATIONS])
        self.block.append(Snake(channels))
        self.block.append(CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride))
        if transformer is not None:
            self.block.append(WindowTransformer(transformer, 2 * channels))

    def forward(
        self,
        x: Tensor,
        attentions: Iterator[AttentionState] | None = None,
        histories: Histories | None = None,
    ) -> Tensor:
        """Map ``[B, C, T]`` to ``[B, 2 * C, T / stride]``."""
        for layer in self.block:
            if isinstance(layer, Snake):
                x = layer(x)
            elif isinstance(layer, WindowTransformer):
                state = None if attentions is None else next(attentions)
                x = layer(x.transpose(1, 2), state).transpose(1, 2)
            else:
                x = layer(x, histories)
        return x


class Encoder(nn.Module):
    """The whole way from samples to latents."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.encoder_dim
        self.block = nn.ModuleList([CausalConv1d(1, channels, 7)])
        for idx, stride in enumerate(config.encoder_rates):
            transformer = config.encoder_transformer(idx)
            self.block.append(EncoderBlock(channels, stride, transformer))
            channels *= 2
        self.block.append(Snake(channels))
        self.block.append(CausalConv1d(channels, config.latent_dim, 3))

    def forward(
        self,
        x: Tensor,
        attentions: Iterator[AttentionState] | None = None,
        histories: Histories | None = None,
    ) -> Tensor:
        """Map samples ``[B, 1, S]`` to latents ``[B, C, S / hop_length]``.

        Args:
            x: Samples; S is a multiple of the hop.
            attentions: The past of each transformer, in a stream.
            histories: The past of each convolution, in a stream.
        """
        for layer in self.block:
            if isinstance(layer, EncoderBlock):
                x = layer(x, attentions, histories)
            elif isinstance(layer, Snake):
                x = layer(x)
            else:
                x = layer(x, histories)
        return x
