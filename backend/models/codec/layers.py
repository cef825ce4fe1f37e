"""The causal building blocks of encoder, quantizer and decoder.

All of them map ``[B, C, T]`` to ``[B, C', T']`` and look only backwards. With ``histories`` they
continue a stream: the result is that of the whole signal, cut where the chunks were cut.

Source:
    Layout and parameter names after fish-speech 0.1.0 (Apache-2.0), ``models/dac/modded_dac.py``
    and ``models/dac/rvq.py``, so that its state dicts fit once weight norm is folded. The code is
    our own; streaming, the folded weights and the order of operations in the snake are additions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from backend.models.codec.state import Histories

    SnakeKernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]


HALF = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """Give ``x`` in float32 if it is of a narrower type, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def with_past(x: Tensor, length: int, histories: Histories | None) -> Tensor:
    """Put the ``length`` inputs before ``x`` in front of it and remember the newest ones.

    Args:
        x: ``[B, C, T]``.
        length: Past inputs wanted; with 0 nothing is taken from ``histories``.
        histories: Where they are kept, or None at the beginning of a signal that comes whole:
            then they are zeros.

    Returns:
        ``[B, C, length + T]``.
    """
    if length == 0:
        return x
    if histories is None:
        return F.pad(x, (length, 0))
    history = next(histories)
    joined = torch.cat((history, x), dim=-1)
    history.copy_(joined[..., -length:])
    return joined


FEW_WINDOWS = {"cpu": 2**18, "cuda": 2**21}
"""Values up to which a convolution runs as one matrix product over its windows, by kind of device.

On a CPU it is faster while all fit the caches (1 MiB). One frame of the pocket voice, one AVX-512
core, torch 2.13: 0.12 ms against 0.32 in the first decoder block, 0.22 against 0.28 in the second.
On a card (half precision only) a frame or two alone leave a convolution with too few tiles to fill
it; the matrix product also splits the sum. 2**21 takes one frame of S1-mini in every block."""


def _most_windows(x: Tensor) -> int:
    if x.is_cuda and x.dtype not in HALF:
        return 0  # matrix products in float32 do without the TF32 that convolutions may use
    return FEW_WINDOWS.get(x.device.type, 0)


def _conv1d_by_product(x: Tensor, conv: nn.Conv1d) -> Tensor:
    step, kernel_size = conv.dilation[0], conv.kernel_size[0]
    windows = x.unfold(-1, (kernel_size - 1) * step + 1, 1)[..., ::step]  # [B, C, T, k]
    windows = windows.transpose(2, 3).flatten(1, 2)
    weight = conv.weight.flatten(1).expand(x.shape[0], -1, -1)
    assert conv.bias is not None
    return torch.baddbmm(conv.bias[:, None], weight, windows)


class CausalConv1d(nn.Module):
    """A convolution that sees its own and earlier inputs only.

    ``T`` must be a multiple of ``stride``; then ``T / stride`` outputs come out, without any
    padding on the right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups
        )
        self.history_length = (kernel_size - 1) * dilation + 1 - stride
        self.can_be_product = stride == groups == 1 and kernel_size > 1
        self.window_size = in_channels * kernel_size

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Convolve ``[B, C, T]`` into ``[B, C', T / stride]``."""
        num_windows = x.shape[-1] * x.shape[0]
        x = with_past(x, self.history_length, histories)
        if self.can_be_product and num_windows * self.window_size <= _most_windows(x):
            return _conv1d_by_product(x, self.conv)
        return self.conv(x)


class CausalConvTranspose1d(nn.Module):
    """An upsampling convolution whose output ``t * stride + j`` needs inputs up to ``t`` only.

    The kernel is one or two strides long, so an output is the sum of what its own input and the
    one before spread over it. A stream keeps that one input and spreads it again.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        if kernel_size not in (stride, 2 * stride):
            raise ValueError(f"kernel_size must be {stride} or {2 * stride}, got {kernel_size}")
        # Only its parameters are used.
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)
        self.stride = stride
        self.history_length = kernel_size // stride - 1

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Upsample ``[B, C, T]`` into ``[B, C', T * stride]``."""
        x = with_past(x, self.history_length, histories)
        # One matrix product and one addition: on a CPU faster than torch's own operator.
        spread = torch.matmul(x.transpose(1, 2), self.conv.weight.flatten(1))
        spread = spread.unflatten(2, (self.conv.out_channels, -1, self.stride))  # [B, T, C', ., s]
        y = spread[:, self.history_length :, :, 0]
        if self.history_length:
            y = y + spread[:, :-1, :, 1]
        assert self.conv.bias is not None
        return (y + self.conv.bias[:, None]).transpose(1, 2).flatten(2)


class Snake(nn.Module):
    """The activation ``x + sin(alpha * x)**2 / alpha``, with one ``alpha`` per channel.

    It is computed in float32 at least, whatever comes in: half precision would round the angle,
    and the sine does not forgive that (at an angle of 8, bfloat16 is off by up to 0.03 rad).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))
        self.kernel: SnakeKernel | None = None
        """The same in one pass, where there is one: see ``Codec.use_snake_kernel``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T]`` to the same shape and dtype."""
        return (self.kernel or plain_snake)(x, self.alpha)


def plain_snake(x: Tensor, alpha: Tensor) -> Tensor:
    """Map ``x`` ``[B, C, T]`` to the same shape and dtype; ``alpha`` is ``[1, C, 1]``."""
    alpha = widened(alpha)
    wave = (x * alpha).sin_().square_()
    # 1e-9 as in training, where it kept alpha = 0 finite.
    return torch.addcmul(widened(x), wave, (alpha + 1e-9).reciprocal()).to(x.dtype)


class ResidualUnit(nn.Module):
    """``x + conv1(snake(conv7(snake(x))))``, the inner convolution dilated."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            [
                Snake(channels),
                CausalConv1d(channels, channels, 7, dilation=dilation),
                Snake(channels),
                CausalConv1d(channels, channels, 1),
            ]
        )

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Map ``[B, C, T]`` to the same shape."""
        first_snake, wide, second_snake, narrow = self.block
        y = second_snake(wide(first_snake(x), histories))
        if y.is_cuda and y.dtype in HALF:
            return self._added(x, y)
        return narrow(y).add_(x)

    def _added(self, x: Tensor, y: Tensor) -> Tensor:
        """Give ``x + conv1(y)`` with one pass over ``x`` and one matrix product on top of it."""
        conv = self.block[-1].conv
        assert isinstance(conv, nn.Conv1d)
        assert conv.bias is not None
        weight = conv.weight.squeeze(-1).expand(x.shape[0], -1, -1)
        return (x + conv.bias[:, None]).baddbmm_(weight, y)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over time, then a small network over channels, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = CausalConv1d(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))
        self.mix: Callable[[ConvNeXtBlock, Tensor, Tensor], Tensor] = plain_mix
        """What comes behind the convolution: see ``Codec.compile_layers``."""

    def forward(self, x: Tensor, histories: Histories | None = None) -> Tensor:
        """Map ``[B, C, T]`` to the same shape."""
        return self.mix(self, x, self.dwconv(x, histories))


def plain_mix(block: ConvNeXtBlock, x: Tensor, y: Tensor) -> Tensor:
    """Add the network over channels of ``y`` to ``x``, both ``[B, C, T]``."""
    y = block.norm(y.transpose(1, 2))
    y = block.pwconv2(F.gelu(block.pwconv1(y)))
    return torch.addcmul(x, y.transpose(1, 2), block.gamma[:, None])


def history_shapes(module: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield ``(channels, history_length)`` of every convolution with a past, in running order.

    Modules are registered in the order in which they run; the streaming tests hold that.
    """
    for child in module.modules():
        if isinstance(child, CausalConv1d | CausalConvTranspose1d) and child.history_length > 0:
            yield child.conv.in_channels, child.history_length
