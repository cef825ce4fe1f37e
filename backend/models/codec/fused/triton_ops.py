"""The operations of the fused decoder as Triton kernels; see ``ops.py`` for what they mean."""

# Triton is not there beside a CPU torch, and its launchers have no types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import triton

from backend.models.codec.fused.kernels.attention import attend_kernel
from backend.models.codec.fused.kernels.edges import (
    depthwise_kernel,
    look_up_kernel,
    sound_kernel,
)
from backend.models.codec.fused.kernels.product import product_kernel
from backend.models.codec.fused.kernels.unit import unit_kernel
from backend.models.codec.fused.ops import FEW_FRAMES, SQUARES_OF, rounded_to_tf32, unit_by_products
from backend.models.codec.fused.tiles import k_block, product_tile, split_channels, unit_tile
from backend.models.kernel_compiling import compiling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from backend.models.codec.fused.packing import Depthwise, Product, Unit, Wave
    from backend.models.codec.fused.state import Place, Signal, Streams
    from backend.models.codec.fused.tiles import ProductKind
    from backend.models.codec.quantizer import FoldedLookups
    from backend.models.kernel_compiling import Requests

CHUNK = 2048
"""Elements that one program copies."""
_SOUND_ROWS = 32
_LOOK_UP_COLUMNS = 64


class TritonOps:
    """The operations on a card.

    Args:
        precision: Of float32 products: ``ieee`` or ``tf32``. Half precision is not touched by it.
        most_stages: Most loads in flight: fewer where a program has little shared memory.
    """

    def __init__(
        self, *, precision: Literal["ieee", "tf32"] = "ieee", most_stages: int = 4
    ) -> None:
        self._most_stages = most_stages
        self._precision: Literal["ieee", "tf32"] = precision
        self._requests: Requests | None = None

    def room(self, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        """See ``FusedOps``. Kernels that are only compiled need strides, not memory."""
        is_real = self._requests is None
        return like.new_empty(shape) if is_real else like.new_empty(shape, device="meta")

    def rounded(self, x: Tensor) -> Tensor:
        """See ``FusedOps``: to the nearest of the values that ``tf32`` has."""
        return rounded_to_tf32(x) if self._precision == "tf32" else x

    def look_up(self, codes: Tensor, lookups: FoldedLookups, out: Signal) -> None:
        """See ``FusedOps``."""
        num_books, width = lookups.last.shape[0], lookups.table.shape[1]
        frames, columns = codes.shape[2], out.channels
        grid = (codes.shape[0] * frames, triton.cdiv(columns, _LOOK_UP_COLUMNS))
        self._start(
            look_up_kernel, grid,
            codes, lookups.last, lookups.first_row, lookups.table, lookups.weight, lookups.bias,
            out.data, out.squares, frames, columns, num_books, width,
            triton.next_power_of_2(num_books * width), _LOOK_UP_COLUMNS,
        )  # fmt: skip

    def product(
        self, streams: Streams, layer: Product, source: Signal, *,
        plain: Signal | None = None, waved: Signal | None = None, wave: Wave | None = None,
        residual: Signal | None = None,
    ) -> None:  # fmt: skip
        """See ``FusedOps``."""
        result = plain or waved
        assert result is not None
        columns, width = layer.weight.shape
        per_stream = result.length // layer.spread
        batch = source.data.shape[0]
        rows = batch * per_stream
        tile = product_tile(rows, columns, width, self._kind_of(source))
        num_tiles = triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
        copies = _Copies(source, waved if waved is not None and waved.place else plain)
        other, numbers = layer.weight, layer.bias  # stand where there is nothing
        squares = None if plain is None else plain.squares
        has_norm = layer.norm_eps is not None
        _check(layer, squares, has_wave=waved is not None)
        alpha, inverse = (numbers, numbers) if wave is None else (wave.alpha, wave.inverse)
        self._start(
            product_kernel, (num_tiles + batch * copies.num_chunks,),
            source.data, layer.weight, numbers, _or(layer.gamma, numbers), alpha, inverse,
            _body(residual, other), _body(plain, other), _body(waved, other),
            _or(source.squares, numbers), _or(squares, numbers),
            streams.pool.histories, streams.rows, streams.lengths, copies.head,
            rows, per_stream, columns, width, layer.channels, layer.first * source.channels,
            _stride(source), layer.row_step * source.channels, layer.tap_step * source.channels,
            _stride(residual), _stride(plain), _stride(waved), copies.head_stride,
            layer.norm_eps or 0.0, int(layer.has_gelu), int(layer.gamma is not None),
            int(residual is not None), int(plain is not None), int(squares is not None),
            streams.pool.histories.stride(0), copies.save_step, copies.save_at, copies.save_count,
            copies.load_at, copies.load_count, num_tiles, copies.num_chunks,
            BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=k_block(tile, layer.channels),
            HAS_NORM=has_norm, HAS_GATE=layer.is_gated, HAS_WAVED=waved is not None,
            PARTS=triton.next_power_of_2(width // SQUARES_OF) if has_norm else 1,
            PRECISION=self._precision, CHUNK=CHUNK, num_warps=tile.warps,
            num_stages=min(tile.stages, self._most_stages),
        )  # fmt: skip

    def unit(
        self, streams: Streams, unit: Unit, source: Signal, x: Signal, *,
        keeps_x: bool, waved: Signal, wave: Wave,
    ) -> None:  # fmt: skip
        """See ``FusedOps``: one kernel where a program can hold all channels, else two."""
        batch, channels, rows = x.data.shape[0], x.channels, x.data.shape[0] * x.length
        tile = unit_tile(rows, channels, self._kind_of(x))
        parts = split_channels(channels)
        if tile is None or parts is None:
            unit_by_products(
                self, streams, unit, source, x, keeps_x=keeps_x, waved=waved, wave=wave
            )
            return
        num_tiles = triton.cdiv(rows, tile.m)
        copies = _Copies(source, waved)
        self._start(
            unit_kernel, (num_tiles + batch * copies.num_chunks,),
            source.data, unit.wide.weight, unit.wide.bias, unit.inner.alpha, unit.inner.inverse,
            unit.narrow.weight, unit.narrow.bias, x.data, waved.body, wave.alpha, wave.inverse,
            streams.pool.histories, streams.rows, streams.lengths, copies.head, rows, x.length,
            _stride(source), unit.wide.tap_step * channels, _stride(x), _stride(waved),
            int(keeps_x), streams.pool.histories.stride(0), copies.save_step, copies.save_at,
            copies.save_count, copies.load_at, copies.load_count, num_tiles, copies.num_chunks,
            C=channels, C1=parts[0], C2=parts[1], TAPS=unit.wide.taps, BLOCK_M=tile.m,
            BLOCK_K=k_block(tile, channels), PRECISION=self._precision, CHUNK=CHUNK,
            num_warps=tile.warps,
            num_stages=min(tile.stages, self._most_stages),
        )  # fmt: skip

    def depthwise(self, streams: Streams, layer: Depthwise, source: Signal, out: Signal) -> None:
        """See ``FusedOps``."""
        batch, taps = source.data.shape[0], layer.weight.shape[0]
        rows = batch * source.length
        copies = _Copies(source, None)
        self._start(
            depthwise_kernel, (rows + batch * copies.num_chunks,),
            source.data, layer.weight, layer.bias, layer.norm_weight, layer.norm_bias, out.data,
            streams.pool.histories, streams.rows, streams.lengths, rows, source.length,
            _stride(source), layer.eps, streams.pool.histories.stride(0), copies.save_step,
            copies.save_at, copies.save_count, copies.num_chunks, source.channels,
            triton.next_power_of_2(source.channels), taps, CHUNK,
        )  # fmt: skip

    def attend(
        self, streams: Streams, layer_idx: int, qkv: Signal, turns: Tensor, window: int, out: Signal
    ) -> None:
        """See ``FusedOps``."""
        rings = streams.pool.rings
        num_heads, ring, head_dim = rings.shape[3:]
        is_short = qkv.length <= FEW_FRAMES
        self._start(
            attend_kernel, (qkv.data.shape[0], num_heads),
            qkv.data, rings, torch.view_as_real(turns), streams.rows, streams.lengths,
            streams.pool.positions, out.data, qkv.length, num_heads, turns.shape[0], window,
            rings.stride(0), rings.stride(1), layer_idx * rings.stride(2), head_dim**-0.5,
            D=head_dim, RING=ring, BLOCK_Q=16 if is_short else 64,
            BLOCK_K=min(128 if is_short else 64, ring), BLOCK_N=16 if is_short else 64,
            PRECISION=self._precision, num_warps=4,

        )  # fmt: skip

    def sound(self, streams: Streams, layer: Product, source: Signal, samples: Tensor) -> None:
        """See ``FusedOps``."""
        batch, rows = source.data.shape[0], samples.numel()
        num_tiles = triton.cdiv(rows, _SOUND_ROWS)
        copies = _Copies(source, None)
        self._start(
            sound_kernel, (num_tiles + batch * copies.num_chunks,),
            source.data, layer.weight, layer.bias, samples, streams.pool.histories, streams.rows,
            streams.lengths, streams.pool.positions, rows, source.length, _stride(source),
            streams.pool.histories.stride(0), copies.save_step, copies.save_at,
            copies.save_count, num_tiles, copies.num_chunks, source.channels,
            triton.next_power_of_2(source.channels), layer.taps, _SOUND_ROWS, CHUNK,

        )  # fmt: skip

    @contextmanager
    def compiling(self) -> Iterator[bool]:
        """See ``FusedOps``: all kernels at once, on all cores."""
        with compiling() as requests:
            self._requests = requests
            try:
                yield requests is not None
            finally:
                self._requests = None

    def _kind_of(self, signal: Signal) -> ProductKind:
        return self._precision if signal.data.itemsize == 4 else "half"

    def _start(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        if self._requests is None:
            kernel[grid](*args, **options)
        else:
            self._requests.ask(kernel, grid, *args, **options)


def _check(layer: Product, squares: Tensor | None, *, has_wave: bool) -> None:
    """Refuse a product of which ``product_kernel`` would leave something out."""
    is_plain = not (layer.norm_eps is not None or layer.is_gated or has_wave)
    if not is_plain and (layer.has_gelu or layer.gamma is not None or squares is not None):
        raise ValueError("gelu, gamma and squares go with neither a norm, a gate nor a snake")


class _Copies:
    """Arguments of ``carry_past``: from the source to the pool, from the pool to the result."""

    def __init__(self, source: Signal, result: Signal | None) -> None:
        self.save_step = source.rate * source.channels
        self.save_at, self.save_count = _span(source.place)
        place = None if result is None else result.place
        self.load_at, self.load_count = _span(place)
        self.head = source.data if result is None else result.data
        self.head_stride = _stride(result)
        self.num_chunks = triton.cdiv(max(self.save_count, self.load_count), CHUNK)


def _span(place: Place | None) -> tuple[int, int]:
    return (0, 0) if place is None else (place.start, place.size)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


def _body(signal: Signal | None, other: Tensor) -> Tensor:
    return other if signal is None else signal.body


def _stride(signal: Signal | None) -> int:
    return 0 if signal is None else signal.data.stride(0)
