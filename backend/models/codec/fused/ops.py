"""What the fused decoder is made of, and each operation in plain PyTorch.

The plain operations define what the kernels of ``triton_ops.py`` compute, bit for bit of the state
and up to rounding of the signals; they run anywhere and are what the tests on a CPU go through.

An operation that reads a signal with a head leaves the newest inputs of each stream in the pool;
one that makes such a signal fills its head from the pool. So a stream's past is read before it is
replaced, and no other operation moves it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F

from backend.models.codec.layers import widened

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from backend.models.codec.fused.packing import Depthwise, Product, Unit, Wave
    from backend.models.codec.fused.state import Signal, Streams
    from backend.models.codec.quantizer import FoldedLookups

FEW_FRAMES = 16
"""New positions of a stream that the attention takes in one go."""
SQUARES_OF = 16
"""Neighboring channels whose squares are added up, see ``Signal.squares``."""


class FusedOps(Protocol):
    """The operations; signals that are results are given, their bodies are written."""

    def room(self, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        """Give memory for a signal."""
        ...

    def rounded(self, x: Tensor) -> Tensor:
        """Give weights or samples as products take them.

        Operations whose products keep less of a float32 value than it has round what they write
        for products; what comes from elsewhere is to be rounded by this.
        """
        ...

    def look_up(self, codes: Tensor, lookups: FoldedLookups, out: Signal) -> None:
        """Write what ``codes [B, K, F]`` stand for."""
        ...

    def product(
        self, streams: Streams, layer: Product, source: Signal, *,
        plain: Signal | None = None, waved: Signal | None = None, wave: Wave | None = None,
        residual: Signal | None = None,
    ) -> None:  # fmt: skip
        """Write the product, added to ``residual``, to ``plain``, and its snake to ``waved``.

        ``residual`` may be ``plain``.
        """
        ...

    def unit(
        self, streams: Streams, unit: Unit, source: Signal, x: Signal, *,
        keeps_x: bool, waved: Signal, wave: Wave,
    ) -> None:  # fmt: skip
        """Run a residual unit on ``x``, whose first snake is ``source``.

        The sum is left in ``x`` if ``keeps_x`` (else ``x`` holds nothing afterwards); its snake by
        ``wave`` is written to ``waved``.
        """
        ...

    def depthwise(self, streams: Streams, layer: Depthwise, source: Signal, out: Signal) -> None:
        """Write the normalized convolution over time of each channel."""
        ...

    def attend(
        self, streams: Streams, layer_idx: int, qkv: Signal, turns: Tensor, window: int, out: Signal
    ) -> None:
        """Write what each new position finds; leave keys and values in the rings.

        Args:
            streams: Whose positions; not advanced.
            layer_idx: Layer of the rings.
            qkv: ``[B, F, 3 * H * D]``, not rotated.
            turns: ``[N, D / 2]`` complex64, RoPE factors by position; the last ones serve all
                positions beyond.
            window: Positions that a query sees, itself included.
            out: ``[B, F, H * D]``.
        """
        ...

    def sound(self, streams: Streams, layer: Product, source: Signal, samples: Tensor) -> None:
        """Write ``tanh`` of the last convolution to ``samples [B, S]``; advance the streams."""
        ...

    def compiling(self) -> AbstractContextManager[bool]:
        """Inside, operations are compiled and nothing is written; False: there is nothing to do."""
        ...


class TorchOps:
    """The operations in plain PyTorch."""

    def room(self, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        """See ``FusedOps``."""
        return like.new_empty(shape)

    def rounded(self, x: Tensor) -> Tensor:
        """See ``FusedOps``: nothing is lost here."""
        return x

    def look_up(self, codes: Tensor, lookups: FoldedLookups, out: Signal) -> None:
        """See ``FusedOps``."""
        out.body.copy_(lookups(codes))

    def product(
        self, streams: Streams, layer: Product, source: Signal, *,
        plain: Signal | None = None, waved: Signal | None = None, wave: Wave | None = None,
        residual: Signal | None = None,
    ) -> None:  # fmt: skip
        """See ``FusedOps``."""
        y = _multiplied(layer, source)
        if residual is not None:
            y = y + widened(residual.body).view(y.shape)
        keep_past(streams, source)
        if plain is not None:
            plain.body.copy_(y.view(plain.body.shape))
            recall_past(streams, plain)
        if waved is not None:
            assert wave is not None
            waved.body.copy_(_snake(y, wave).view(waved.body.shape))
            recall_past(streams, waved)

    def unit(
        self, streams: Streams, unit: Unit, source: Signal, x: Signal, *,
        keeps_x: bool, waved: Signal, wave: Wave,
    ) -> None:  # fmt: skip
        """See ``FusedOps``."""
        unit_by_products(self, streams, unit, source, x, keeps_x=keeps_x, waved=waved, wave=wave)

    def depthwise(self, streams: Streams, layer: Depthwise, source: Signal, out: Signal) -> None:
        """See ``FusedOps``."""
        x = widened(source.data).transpose(1, 2)
        weight = widened(layer.weight).t()[:, None]
        y = F.conv1d(x, weight, widened(layer.bias), groups=source.channels).transpose(1, 2)
        norm = (widened(layer.norm_weight), widened(layer.norm_bias))
        out.body.copy_(F.layer_norm(y, (source.channels,), *norm, layer.eps))
        keep_past(streams, source)

    def attend(
        self, streams: Streams, layer_idx: int, qkv: Signal, turns: Tensor, window: int, out: Signal
    ) -> None:
        """See ``FusedOps``."""
        pool, dtype = streams.pool, qkv.data.dtype
        rings = pool.rings[streams.rows, :, layer_idx]  # [B, 2, H, R, D]
        num_heads, ring, head_dim = rings.shape[2:]
        before = pool.positions[streams.rows]
        places = before[:, None] + torch.arange(qkv.length, device=before.device)
        heads = qkv.body.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
        factors = turns[places.clamp(max=turns.shape[0] - 1)][:, None]
        q, k = (_turned(part, factors).to(dtype) for part in heads[:2])
        slots = torch.arange(ring, device=before.device)
        past = before[:, None] - 1 - (before[:, None] - 1 - slots) % ring
        key_places = torch.cat((past, places), 1)[:, None]
        distance = places[:, :, None] - key_places
        seen = (distance >= 0) & (distance < window) & (key_places >= 0)
        keys = torch.cat((rings[:, 0], k), 2)
        values = torch.cat((rings[:, 1], heads[2]), 2)
        found = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen[:, None])
        out.body.copy_(found.transpose(1, 2).flatten(2))
        self._into_rings(streams, layer_idx, places, k, heads[2])

    def _into_rings(
        self, streams: Streams, layer_idx: int, places: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        rings = streams.pool.rings
        ring = rings.shape[4]
        for row_idx, (row, length) in enumerate(
            zip(streams.rows.tolist(), streams.lengths.tolist(), strict=True)
        ):
            newest = slice(max(0, length - ring), length)
            slots = places[row_idx, newest] % ring
            rings[row, 0, layer_idx][:, slots] = keys[row_idx][:, newest]
            rings[row, 1, layer_idx][:, slots] = values[row_idx][:, newest]

    def sound(self, streams: Streams, layer: Product, source: Signal, samples: Tensor) -> None:
        """See ``FusedOps``."""
        samples.copy_(torch.tanh(_multiplied(layer, source)).view(samples.shape))
        keep_past(streams, source)
        pool = streams.pool
        pool.positions.index_copy_(0, streams.rows, pool.positions[streams.rows] + streams.lengths)

    def compiling(self) -> AbstractContextManager[bool]:
        """See ``FusedOps``."""
        return nullcontext(False)


def unit_by_products(
    ops: FusedOps, streams: Streams, unit: Unit, source: Signal, x: Signal, *,
    keeps_x: bool, waved: Signal, wave: Wave,
) -> None:  # fmt: skip
    """Run a residual unit as two products."""
    batch, length, channels = x.body.shape
    inner = type(x)(ops.room((batch, length, channels), x.data), x.rate)
    ops.product(streams, unit.wide, source, waved=inner, wave=unit.inner)
    ops.product(
        streams, unit.narrow, inner, plain=x if keeps_x else None, waved=waved, wave=wave,
        residual=x,
    )  # fmt: skip


def rounded_to_tf32(x: Tensor) -> Tensor:
    """Round float32 values to 10 bits of mantissa, halves away from zero.

    Without memory there is nothing to round, and trying to imports a compiler (``models.joining``).
    """
    if x.is_meta:
        return x
    return (x.view(torch.int32) + 0x1000).bitwise_and_(-0x2000).view(torch.float32)


def keep_past(streams: Streams, source: Signal) -> None:
    """Leave the newest inputs of each stream in the pool."""
    place = source.place
    if place is None:
        return
    steps = torch.arange(place.rows, device=source.data.device)
    newest = (streams.lengths * source.rate)[:, None] + steps  # of head and body together
    past = source.data.gather(1, newest[..., None].expand(-1, -1, place.channels))
    streams.pool.histories[streams.rows, place.start : place.start + place.size] = past.flatten(1)


def recall_past(streams: Streams, result: Signal) -> None:
    """Fill the head of a signal from the pool."""
    place = result.place
    if place is None:
        return
    past = streams.pool.histories[streams.rows, place.start : place.start + place.size]
    result.data[:, : place.rows].copy_(past.view(-1, place.rows, place.channels))


def _multiplied(layer: Product, source: Signal) -> Tensor:
    """Give ``[B, T, N]`` in float32 at least."""
    windows = widened(_windows(layer, source))
    weight = widened(layer.weight)
    y = windows @ weight.t()
    if layer.norm_eps is not None:
        mean_square = windows.square().mean(dim=-1, keepdim=True)
        y = y * (mean_square + layer.norm_eps).rsqrt()
    y = y + layer.bias
    if layer.is_gated:
        gate, other = y.unflatten(-1, (-1, 2)).unbind(-1)
        y = F.silu(gate) * other
    if layer.has_gelu:
        y = F.gelu(y)
    return y if layer.gamma is None else y * layer.gamma


def _windows(layer: Product, source: Signal) -> Tensor:
    """Give what each output sees, ``[B, T, K]``."""
    if layer.row_step > 1:
        starts = source.data.unfold(1, layer.channels // source.channels, layer.row_step)
        return starts.transpose(2, 3).flatten(2)
    length = source.length
    taps = [layer.first + tap * layer.tap_step for tap in range(layer.taps)]
    return torch.cat([source.data[:, start : start + length] for start in taps], dim=-1)


def _snake(y: Tensor, wave: Wave) -> Tensor:
    return y + wave.inverse * torch.sin(y * wave.alpha).square()


def _turned(heads: Tensor, factors: Tensor) -> Tensor:
    """Rotate pairs of ``[B, H, F, D]``; the even channels come first."""
    pairs = widened(heads).unflatten(-1, (-1, 2))
    turned = torch.view_as_complex(pairs.contiguous()) * factors
    return torch.cat((turned.real, turned.imag), dim=-1)
