"""The decoding half of the codec as a chain of fused operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from backend.models.codec.fused.ops import SQUARES_OF
from backend.models.codec.fused.packing import (
    Depthwise,
    Layer,
    Product,
    Unit,
    Wave,
    packed_conv,
    packed_depthwise,
    packed_layer,
    packed_pointwise,
    packed_transposed,
    packed_unit,
    packed_wave,
)
from backend.models.codec.fused.state import FusedPool, Places, Signal
from backend.models.codec.fused.tiles import LEAST_CHANNELS

if TYPE_CHECKING:
    from torch import Tensor

    from backend.models.codec.codec import Codec
    from backend.models.codec.decoder import DecoderBlock
    from backend.models.codec.fused.ops import FusedOps
    from backend.models.codec.fused.state import Place, Streams


@dataclass(frozen=True, slots=True)
class Growth:
    """An upsampling stage between the transformer and the decoder.

    Attributes:
        grow: The transposed convolution; the first one holds the transformer's last norm.
        place: Past of the convolution over time.
        depthwise: That convolution.
        widen: To four times the channels.
        narrow: Back, added to the stage's upsampled input.
    """

    grow: Product
    place: Place | None
    depthwise: Depthwise
    widen: Product
    narrow: Product


@dataclass(frozen=True, slots=True)
class Block:
    """A decoder block.

    Attributes:
        place: Past of the upsampling convolution.
        entry: The snake before it.
        grow: The upsampling convolution.
        between: The snake after it: the first unit's, once for every row that a product fills.
        units: Three residual units.
    """

    place: Place | None
    entry: Wave
    grow: Product
    between: Wave
    units: tuple[Unit, ...]


class DecoderNetwork:
    """Packed weights of a codec, and the order in which they run.

    Args:
        codec: With its decoding half. Its weights are copied where their order changes and shared
            where not.
    """

    def __init__(self, codec: Codec) -> None:
        quantizer, decoder = codec.quantizer, codec.decoder
        assert decoder is not None
        assert quantizer.post_module is not None
        assert quantizer.upsample is not None
        self.config = codec.config
        self.device, self.dtype = codec.device, codec.dtype
        self.lookups = quantizer.folded_lookups()
        post = quantizer.post_module
        self.rotary = post.rotary
        self.layers: tuple[Layer, ...] = tuple(
            packed_layer(block) for block in cast("Any", post.layers)
        )
        places = Places()
        self.growths: list[Growth] = []
        norm = post.norm
        for up, convnext in cast("Any", quantizer.upsample):
            grow = packed_transposed(up, norm)
            place = places.take(convnext.dwconv.history_length, up.conv.out_channels)
            pointwise = packed_pointwise(convnext)
            self.growths.append(Growth(grow, place, packed_depthwise(convnext), *pointwise))
            norm = None
        first, *blocks, snake, last = cast("list[Any]", list(decoder.model))
        self.entry_place = places.take(first.history_length, first.conv.in_channels)
        self.entry = packed_conv(first)
        self.blocks = [_packed_block(block, places) for block in blocks]
        self.exit_wave = packed_wave(snake)
        self.exit_place = places.take(last.history_length, last.conv.in_channels)
        self.exit = packed_conv(last)
        self._width = places.width

    def new_pool(self, num_rows: int) -> FusedPool:
        """Give room for ``num_rows`` streams."""
        return FusedPool(self._width, self.config.transformer, num_rows, self.device, self.dtype)

    def run(self, ops: FusedOps, codes: Tensor, streams: Streams) -> Tensor:
        """Decode ``codes [B, K, F]``; the streams advance by their lengths.

        Returns:
            ``[B, F * frame_length]`` float32; of a stream the first ``lengths[b]`` frames count.
        """
        x = self._latents(ops, codes, streams)
        s = self._signal(ops, x, self.entry, self.blocks[0].place)
        ops.product(streams, self.entry, x, waved=s, wave=self.blocks[0].entry)
        entries = [(block.entry, block.place) for block in self.blocks[1:]]
        entries.append((self.exit_wave, self.exit_place))
        for block, (wave, place) in zip(self.blocks, entries, strict=True):
            s = self._block(ops, block, s, wave, place, streams)
        samples = codes.new_empty(codes.shape[0], s.length, dtype=torch.float32)
        ops.sound(streams, self.exit, s, samples)
        return samples

    def _latents(self, ops: FusedOps, codes: Tensor, streams: Streams) -> Signal:
        batch, _, frames = codes.shape
        config = self.config.transformer
        x = self._room(ops, batch, frames, self.config.latent_dim, 1)
        x = replace(x, squares=self._squares(x))
        ops.look_up(codes, self.lookups, x)
        turns = self.rotary.reserve(1, self.device)
        inner = config.n_head * config.head_dim
        for idx, layer in enumerate(self.layers):
            qkv = self._room(ops, batch, frames, 3 * inner, 1)
            ops.product(streams, layer.qkv, x, plain=qkv)
            found = self._room(ops, batch, frames, inner, 1)
            ops.attend(streams, idx, qkv, turns, config.window_size, found)
            ops.product(streams, layer.output, found, plain=x, residual=x)
            wide = self._signal(ops, x, layer.gated)
            ops.product(streams, layer.gated, x, plain=wide)
            ops.product(streams, layer.down, wide, plain=x, residual=x)
        following = [stage.place for stage in self.growths]
        for idx, stage in enumerate(self.growths):
            grown = self._signal(ops, x, stage.grow, following[idx])
            ops.product(streams, stage.grow, x, plain=grown)
            normed = self._room(ops, batch, grown.length, grown.channels, grown.rate)
            ops.depthwise(streams, stage.depthwise, grown, normed)
            wide = self._signal(ops, normed, stage.widen)
            ops.product(streams, stage.widen, normed, plain=wide)
            is_last = idx == len(self.growths) - 1
            x = self._signal(ops, wide, stage.narrow, self.entry_place if is_last else None)
            ops.product(streams, stage.narrow, wide, plain=x, residual=grown)
        return x

    def _block(
        self, ops: FusedOps, block: Block, source: Signal, wave: Wave, place: Place | None,
        streams: Streams,
    ) -> Signal:  # fmt: skip
        """Run one decoder block; give its result after the snake ``wave``."""
        units = block.units
        x = self._signal(ops, source, block.grow)
        s = self._signal(ops, source, block.grow, units[0].place)
        ops.product(streams, block.grow, source, plain=x, waved=s, wave=block.between)
        for unit, following in zip(units, (*units[1:], None), strict=True):
            is_last = following is None
            into = self._room(
                ops, x.data.shape[0], x.length, x.channels, x.rate,
                place if is_last else following.place,
            )  # fmt: skip
            ops.unit(
                streams, unit, s, x, keeps_x=not is_last, waved=into,
                wave=wave if is_last else following.entry,
            )  # fmt: skip
            s = into
        return s

    def _signal(
        self, ops: FusedOps, source: Signal, layer: Product, place: Place | None = None
    ) -> Signal:
        """Room for what ``layer`` makes of ``source``."""
        channels = layer.weight.shape[0] // layer.spread // (2 if layer.is_gated else 1)
        length, rate = source.length * layer.spread, source.rate * layer.spread
        return self._room(ops, source.data.shape[0], length, channels, rate, place)

    def _squares(self, x: Signal) -> Tensor:
        shape = (x.data.shape[0] * x.length, x.channels // SQUARES_OF)
        return torch.empty(shape, device=self.device)

    def _room(
        self,
        ops: FusedOps,
        batch: int,
        length: int,
        channels: int,
        rate: int,
        place: Place | None = None,
    ) -> Signal:
        head = 0 if place is None else place.rows
        shape = (batch, head + length, channels)
        return Signal(ops.room(shape, self.entry.weight), rate, place)


def _packed_block(block: DecoderBlock, places: Places) -> Block:
    snake, grow, *units = cast("list[Any]", list(block.block))
    place = places.take(grow.history_length, grow.conv.in_channels)
    packed = []
    for unit in units:
        wide = unit.block[1]
        packed.append(packed_unit(unit, places.take(wide.history_length, wide.conv.in_channels)))
    between = packed_wave(units[0].block[0], grow.stride)
    return Block(place, packed_wave(snake), packed_transposed(grow), between, tuple(packed))


def why_not_fused(codec: Codec) -> str | None:
    """Why the fused decoder cannot run this codec, or None if it can."""
    config = codec.config
    if config.dim != config.latent_dim:
        return "the codec's transformer has a width of its own"
    last = config.decoder_dim >> len(config.decoder_rates)
    widths = (config.latent_dim, config.intermediate_size, last)
    if any(width % LEAST_CHANNELS for width in widths):
        return f"the codec's channels are no multiples of {LEAST_CHANNELS}"
    if config.head_dim % 32 or config.head_dim & (config.head_dim - 1):
        return "the head width of the codec's transformer is no power of two from 32 on"
    return None
