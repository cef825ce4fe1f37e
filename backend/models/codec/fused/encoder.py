"""The convolutions of the encoder as a chain of fused operations.

The transformers inside stay modules: they are little work beside the convolutions, and read and
write channels-last signals as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F

from backend.models.codec.fused.ops import recall_past
from backend.models.codec.fused.packing import (
    Product,
    Unit,
    Wave,
    packed_conv,
    packed_unit,
    packed_wave,
    without_storage,
)
from backend.models.codec.fused.state import FusedPool, Places, Signal, Streams
from backend.models.codec.fused.tiles import LEAST_CHANNELS
from backend.models.codec.layers import CausalConv1d, ResidualUnit, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from backend.models.codec.codec import Codec
    from backend.models.codec.encoder import EncoderBlock
    from backend.models.codec.fused.ops import FusedOps
    from backend.models.codec.fused.state import Place
    from backend.models.codec.state import AttentionState
    from backend.models.codec.transformer import WindowTransformer

_TAPS = 7
"""Of the first convolution, which sees single samples."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An encoder block.

    Attributes:
        units: Three residual units.
        exit: The snake behind them.
        place: Past of the strided convolution.
        shrink: That convolution.
        transformer: What comes behind it, if anything.
    """

    units: tuple[Unit, ...]
    exit: Wave
    place: Place | None
    shrink: Product
    transformer: WindowTransformer | None


class FusedEncoder:
    """Samples to the encoder's latents.

    Args:
        codec: With its encoding half.
        ops: What the operations run on.
    """

    def __init__(self, codec: Codec, ops: FusedOps) -> None:
        assert codec.encoder is not None
        self._ops, self._codec = ops, codec
        self._is_dry = False
        # Never inference tensors, as the weights themselves.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._pack(cast("Any", codec.encoder.block))

    def take_weights(self) -> None:
        """Give up the convolutions of the codec's encoder, so that they are in memory once.

        The codec cannot encode without this object afterwards.
        """
        assert self._codec.encoder is not None
        for module in self._codec.encoder.modules():
            if isinstance(module, CausalConv1d | ResidualUnit):
                without_storage(module)

    def new_pool(self, num_rows: int) -> FusedPool:
        """Give the beginning of ``num_rows`` recordings."""
        no_layers = replace(self._codec.config.transformer, n_layer=0)
        return FusedPool(self._width, no_layers, num_rows, self._codec.device, self._codec.dtype)

    @torch.inference_mode()
    def compile_for(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile all that ``encode`` needs for these pairs of rows and frames."""
        with self._ops.compiling() as is_needed:
            self._is_dry = True
            for batch, frames in sizes if is_needed else ():
                length = frames * self._codec.frame_length
                samples = torch.zeros(batch, length, device=self._codec.device)
                self.encode(samples, self.new_pool(batch), None)
        self._is_dry = False

    @torch.inference_mode()
    def try_out(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile for these sizes and encode silence; raises what this machine has against it."""
        self.compile_for(sizes)
        for batch, frames in sizes:
            length = frames * self._codec.frame_length
            samples = torch.zeros(batch, length, device=self._codec.device)
            if not bool(self.encode(samples, self.new_pool(batch), None).isfinite().all()):
                raise RuntimeError("what it makes are no latents")

    @torch.inference_mode()
    def encode(
        self, samples: Tensor, pool: FusedPool, attentions: Iterator[AttentionState] | None
    ) -> Tensor:
        """Turn the next samples of all rows of ``pool`` into latents.

        Args:
            samples: ``[B, S]`` float32 on the codec's device; S is a multiple of a frame.
            pool: The recordings' past; changed in place.
            attentions: The past of each transformer, in a recording that comes in parts.

        Returns:
            ``[B, C, S / hop_length]``.
        """
        batch = samples.shape[0]
        num_frames = samples.shape[1] // self._codec.frame_length
        numbers = torch.zeros if self._is_dry else torch.arange  # see ``_windows``
        rows = numbers(batch, dtype=torch.int64, device=samples.device)
        streams = Streams(pool, rows, rows.new_full((batch,), num_frames))
        windows = self._windows(samples, streams)
        x, s = (self._room(windows, self._entry, place) for place in (None, self._first_place))
        first = self._stages[0].units[0].entry
        self._ops.product(streams, self._entry, windows, plain=x, waved=s, wave=first)
        for idx, stage in enumerate(self._stages):
            following = self._stages[idx + 1].units[0] if idx + 1 < len(self._stages) else None
            x, s = self._stage(stage, x, s, following, streams, attentions)
        latents = self._room(s, self._exit, None)
        self._ops.product(streams, self._exit, s, plain=latents)
        return latents.body.transpose(1, 2)

    def _pack(self, block: Any) -> None:
        entry, *stages, snake, last = block
        places = Places()
        self._entry = self._rounded(_packed_entry(entry))
        self._entry_place = places.take(_TAPS - 1, 1)
        self._stages = [self._rounded_stage(_packed_stage(stage, places)) for stage in stages]
        self._first_place = self._stages[0].units[0].place
        self._exit_wave, self._exit = packed_wave(snake), self._rounded(packed_conv(last))
        self._exit_place = places.take(last.history_length, last.conv.in_channels)
        self._width = places.width

    def _rounded_stage(self, stage: Stage) -> Stage:
        units = tuple(
            replace(unit, wide=self._rounded(unit.wide), narrow=self._rounded(unit.narrow))
            for unit in stage.units
        )
        return replace(stage, units=units, shrink=self._rounded(stage.shrink))

    def _rounded(self, layer: Product) -> Product:
        return replace(layer, weight=self._ops.rounded(layer.weight))

    def _windows(self, samples: Tensor, streams: Streams) -> Signal:
        """Give the samples that each output of the first convolution sees, filled up with zeros."""
        if self._is_dry:  # without memory, joining would import a compiler (``models.joining``)
            batch, length = samples.shape
            windows = self._ops.room((batch, length, LEAST_CHANNELS), samples)
            return Signal(windows, self._codec.frame_length)
        assert self._entry_place is not None
        start, size = self._entry_place.start, self._entry_place.size
        past = streams.pool.histories[:, start : start + size]
        joined = torch.cat((past, self._ops.rounded(samples)), dim=1)
        past.copy_(joined[:, -size:])
        windows = F.pad(joined.unfold(1, _TAPS, 1), (0, LEAST_CHANNELS - _TAPS))
        return Signal(windows, self._codec.frame_length)

    def _stage(
        self, stage: Stage, x: Signal, s: Signal, following: Unit | None, streams: Streams,
        attentions: Iterator[AttentionState] | None,
    ) -> tuple[Signal, Signal]:  # fmt: skip
        """Run a block; give its result and that behind the next snake."""
        for idx, unit in enumerate(stage.units):
            is_last = idx + 1 == len(stage.units)
            place = stage.place if is_last else stage.units[idx + 1].place
            wave = stage.exit if is_last else stage.units[idx + 1].entry
            into = Signal(self._memory(x, place), x.rate, place)
            self._ops.unit(streams, unit, s, x, keeps_x=not is_last, waved=into, wave=wave)
            s = into
        wave = self._exit_wave if following is None else following.entry
        x = self._room(s, stage.shrink, None)
        waved = self._room(
            s, stage.shrink, self._exit_place if following is None else following.place
        )
        if stage.transformer is None:
            self._ops.product(streams, stage.shrink, s, plain=x, waved=waved, wave=wave)
            return x, waved
        self._ops.product(streams, stage.shrink, s, plain=x)
        if self._is_dry:  # there is no memory behind the signals
            return x, waved
        y = stage.transformer(x.body, None if attentions is None else next(attentions))
        x.body.copy_(y)
        wave_of_y = torch.addcmul(y, (y * wave.alpha).sin_().square_(), wave.inverse)
        waved.body.copy_(self._ops.rounded(wave_of_y))
        recall_past(streams, waved)
        return x, waved

    def _room(self, source: Signal, layer: Product, place: Place | None) -> Signal:
        """Room for what ``layer`` makes of ``source``."""
        head = 0 if place is None else place.rows
        length = source.length // layer.row_step
        shape = (source.data.shape[0], head + length, layer.weight.shape[0])
        data = self._ops.room(shape, layer.weight)
        return Signal(data, source.rate // layer.row_step, place)

    def _memory(self, x: Signal, place: Place | None) -> Tensor:
        head = 0 if place is None else place.rows
        return self._ops.room((x.data.shape[0], head + x.length, x.channels), x.data)


def why_encoder_not_fused(codec: Codec) -> str | None:
    """Why the fused encoder cannot run this codec, or None if it can."""
    if codec.config.encoder_dim % LEAST_CHANNELS or codec.config.latent_dim % LEAST_CHANNELS:
        return f"the encoder's channels are no multiples of {LEAST_CHANNELS}"
    return None


def _packed_entry(conv: CausalConv1d) -> Product:
    weight = F.pad(conv.conv.weight.flatten(1), (0, LEAST_CHANNELS - _TAPS))
    assert conv.conv.bias is not None
    return Product(weight, widened(conv.conv.bias), 1, LEAST_CHANNELS)


def _packed_stage(block: EncoderBlock, places: Places) -> Stage:
    *units, snake, shrink = cast("list[Any]", list(block.block)[:5])
    transformer = cast("Any", block.block[5]) if len(block.block) > 5 else None
    packed = tuple(
        packed_unit(unit, places.take(unit.block[1].history_length, unit.block[1].conv.in_channels))
        for unit in units
    )
    place = places.take(shrink.history_length, shrink.conv.in_channels)
    return Stage(packed, packed_wave(snake), place, packed_conv(shrink), transformer)
