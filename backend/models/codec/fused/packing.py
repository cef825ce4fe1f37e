"""A codec's weights in the order in which the fused operations read them.

Every convolution becomes a matrix ``[N, K]`` whose rows lie as the inputs of an output lie in a
channels-last signal: tap by tap, channels side by side. A transposed convolution becomes the matrix
of all outputs of one input step. RMSNorm weights are multiplied into the matrix behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from backend.models.codec.layers import widened
from backend.models.joining import repeated, stacked

if TYPE_CHECKING:
    from torch import Tensor

    from backend.models.codec.fused.state import Place
    from backend.models.codec.layers import (
        CausalConv1d,
        CausalConvTranspose1d,
        ConvNeXtBlock,
        ResidualUnit,
        Snake,
    )
    from backend.models.codec.transformer import LayerScale, RMSNorm, TransformerBlock


@dataclass(frozen=True, slots=True)
class Product:
    """``y[t, n] = sum over taps and channels of x[first + t * row_step + tap * tap_step] * w``.

    Attributes:
        weight: ``[N, taps * channels]``.
        taps: Rows of the source that an output sees.
        channels: Values that a tap takes; several rows' where a convolution has a stride.
        first: Row of the source, its head counted, that the first tap of output 0 reads.
        tap_step: Rows from one tap to the next (the dilation).
        row_step: Rows of the source from one output to the next (the stride).
        spread: Rows of the result that one ``y[t]`` fills (the stride of a transposed convolution).
        bias: ``[N]`` float32, zeros where a layer has none.
        is_gated: Whether the rows of ``weight`` are pairs: the result has half as many columns,
            ``silu`` of the first of a pair times the second.
        gamma: ``[N]`` float32, on the result before it is added to something.
        norm_eps: The source is divided by its root mean square, with this inside the root.
        has_gelu: Whether the result goes through a GELU.
    """

    weight: Tensor
    bias: Tensor
    taps: int
    channels: int
    first: int = 0
    tap_step: int = 1
    row_step: int = 1
    spread: int = 1
    is_gated: bool = False
    gamma: Tensor | None = None
    norm_eps: float | None = None
    has_gelu: bool = False


@dataclass(frozen=True, slots=True)
class Wave:
    """A snake: ``x + inverse * sin(alpha * x)**2``, all ``[N]`` float32."""

    alpha: Tensor
    inverse: Tensor


@dataclass(frozen=True, slots=True)
class Unit:
    """A residual unit without its first snake: that is applied where its input is made.

    Attributes:
        place: Where the past of its wide convolution is kept.
        entry: The first snake.
        wide: The dilated convolution.
        inner: The snake between the two.
        narrow: The convolution of one tap.
    """

    place: Place | None
    entry: Wave
    wide: Product
    inner: Wave
    narrow: Product


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A convolution of each channel by itself, then LayerNorm over the channels.

    Attributes:
        weight: ``[taps, C]``.
        bias: ``[C]``.
        norm_weight: ``[C]``.
        norm_bias: ``[C]``.
        eps: Of the norm.
    """

    weight: Tensor
    bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One block of the transformer."""

    qkv: Product
    output: Product
    gated: Product
    down: Product


def packed_conv(conv: CausalConv1d) -> Product:
    """Pack a convolution over neighboring channels (no groups)."""
    inner = conv.conv
    weight = inner.weight.permute(0, 2, 1).flatten(1).contiguous()
    stride, channels, taps = inner.stride[0], inner.in_channels, inner.kernel_size[0]
    bias = _bias_of(inner)
    if stride == 1:
        return Product(weight, bias, taps, channels, tap_step=inner.dilation[0])
    return Product(weight, bias, 1, taps * channels, row_step=stride)


def packed_transposed(conv: CausalConvTranspose1d, norm: RMSNorm | None = None) -> Product:
    """Pack an upsampling convolution: ``[stride * C', taps * C]``, the newest input first."""
    inner, stride = conv.conv, conv.stride
    weight = inner.weight  # [C, C', taps * stride]
    if norm is not None:
        weight = _scaled(weight, widened(norm.weight)[:, None, None])
    taps = weight.shape[2] // stride
    parts = weight.unflatten(2, (taps, stride)).permute(3, 1, 2, 0)  # [stride, C', taps, C]
    return Product(
        parts.flatten(2).flatten(0, 1).contiguous(), repeated(_bias_of(inner), stride), taps,
        inner.in_channels, first=conv.history_length, tap_step=-1, spread=stride,
        norm_eps=None if norm is None else norm.eps,
    )  # fmt: skip


def packed_wave(snake: Snake, times: int = 1) -> Wave:
    """Pack a snake; ``times`` rows of channels lie side by side in what it is applied to."""
    alpha = repeated(widened(snake.alpha).flatten(), times)
    return Wave(alpha, alpha.clone() if alpha.is_meta else (alpha + 1e-9).reciprocal())


def packed_unit(unit: ResidualUnit, place: Place | None) -> Unit:
    """Pack a residual unit."""
    entry, wide, inner, narrow = cast("Any", unit.block)
    snakes = packed_wave(entry), packed_wave(inner)
    return Unit(place, snakes[0], packed_conv(wide), snakes[1], packed_conv(narrow))


def packed_layer(block: TransformerBlock) -> Layer:
    """Pack a block of the transformer."""
    attention, ffn = block.attention, block.feed_forward
    before, between = block.attention_norm, block.ffn_norm
    return Layer(
        qkv=_linear(attention.wqkv, before),
        output=_linear(attention.wo, scale=block.attention_layer_scale),
        gated=_gated(ffn.w1, ffn.w3, between),
        down=_linear(ffn.w2, scale=block.ffn_layer_scale),
    )


def packed_depthwise(block: ConvNeXtBlock) -> Depthwise:
    """Pack the part of a ConvNeXt block that mixes over time."""
    conv, norm = block.dwconv.conv, block.norm
    assert conv.bias is not None
    return Depthwise(
        conv.weight.squeeze(1).t().contiguous(), conv.bias, norm.weight, norm.bias, norm.eps
    )


def packed_pointwise(block: ConvNeXtBlock) -> tuple[Product, Product]:
    """Pack the part of a ConvNeXt block that mixes channels."""
    widen, narrow = _linear(block.pwconv1), _linear(block.pwconv2)
    return replace(widen, has_gelu=True), replace(narrow, gamma=widened(block.gamma))


def _linear(
    linear: nn.Linear, norm: RMSNorm | None = None, *, scale: LayerScale | None = None
) -> Product:
    return Product(
        _normed(linear.weight, norm), _bias_of(linear), 1, linear.in_features,
        gamma=None if scale is None else widened(scale.gamma),
        norm_eps=None if norm is None else norm.eps,
    )  # fmt: skip


def _gated(gate: nn.Linear, other: nn.Linear, norm: RMSNorm) -> Product:
    pairs = stacked((_normed(gate.weight, norm), _normed(other.weight, norm)), dim=1)
    weight = pairs.flatten(0, 1)
    bias = torch.zeros(weight.shape[0], device=weight.device)
    return Product(weight, bias, 1, gate.in_features, is_gated=True, norm_eps=norm.eps)


def _bias_of(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    if layer.bias is not None:
        return widened(layer.bias)
    return torch.zeros(layer.weight.shape[0], device=layer.weight.device)


def _normed(weight: Tensor, norm: RMSNorm | None) -> Tensor:
    if norm is None:
        return weight
    return _scaled(weight, widened(norm.weight))


def _scaled(weight: Tensor, factors: Tensor) -> Tensor:
    """``weight * factors``; as it is where there is no memory, see ``joining``."""
    return weight if weight.is_meta else (widened(weight) * factors).to(weight.dtype)


def without_storage(module: nn.Module) -> None:
    """Let go of a module's weights, so that only their packed form takes memory."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            nothing = torch.empty(0, device=parameter.device, dtype=parameter.dtype)
            child.register_parameter(name, nn.Parameter(nothing, requires_grad=False))
