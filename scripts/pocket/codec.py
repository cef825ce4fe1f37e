"""The whole codec in training form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.codec_net import Decoder, Encoder
from scripts.pocket.quantizer_net import Quantizer

if TYPE_CHECKING:
    from scripts.pocket.codec_net import CodecSizes


class Codec(nn.Module):
    """Encoder, quantizer, decoder."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder, self.quantizer = Encoder(sizes), Quantizer(sizes)
        self.decoder = Decoder(sizes)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Samples ``[B, 1, S]`` to codes ``[B, K, F]`` int64; the end is padded to a frame."""
        x = F.pad(x, (0, -x.shape[-1] % self.sizes.frame_length))
        return self.quantizer.quantize(self.quantizer.condense(self.encoder(x))).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``[B, K, F]`` to samples ``[B, 1, F * frame_length]``."""
        return self.decoder(self.quantizer.expand(self.quantizer.look_up(codes)))
