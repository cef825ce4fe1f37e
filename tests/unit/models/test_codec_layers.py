"""The building blocks against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch

from backend.models.codec.layers import CausalConv1d, CausalConvTranspose1d, Snake
from backend.models.codec.rope import RotaryTable, rotary_factors
from backend.models.codec.transformer import attend, window_blocks
from tests.parity.tiny_checkpoint import weight_values

CPU = torch.device("cpu")


def values(name: str, *shape: int) -> torch.Tensor:
    return weight_values(name, shape)


def test_snake_is_x_plus_the_scaled_square_of_a_sine():
    snake, x = Snake(3), values("x", 2, 3, 50) * 8
    snake.alpha.data = values("alpha", 1, 3, 1) + 1.5
    alpha = snake.alpha.double()
    expected = x.double() + torch.sin(alpha * x.double()) ** 2 / (alpha + 1e-9)
    assert (snake(x) - expected).abs().max() < 2e-6


def test_snake_of_bfloat16_rounds_only_its_result():
    snake, x = Snake(3), (values("x", 2, 3, 50) * 8).bfloat16()
    assert torch.equal(snake(x), snake(x.float()).bfloat16())


def test_snake_leaves_its_input_alone_and_has_gradients():
    snake, x = Snake(2), values("x", 1, 2, 9).requires_grad_()
    before = x.detach().clone()
    snake(x).sum().backward()
    assert torch.equal(x.detach(), before)
    expected = 1 + torch.sin(2 * before)  # alpha is 1
    assert x.grad is not None
    assert (x.grad - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (7, 1, 9), (4, 2, 1)])
def test_a_causal_convolution_sums_its_own_and_earlier_inputs(kernel, stride, dilation):
    conv = CausalConv1d(1, 1, kernel, stride=stride, dilation=dilation)
    x = values("x", 1, 1, 40)
    taps, bias = conv.conv.weight[0, 0], conv.conv.bias
    y = conv(x)[0, 0]
    assert y.shape == (40 // stride,)
    assert bias is not None
    for t in range(40 // stride):
        newest = t * stride + stride - 1
        past = [newest - (kernel - 1 - k) * dilation for k in range(kernel)]
        expected = bias[0] + sum(
            tap * x[0, 0, at] for tap, at in zip(taps, past, strict=True) if at >= 0
        )
        assert y[t].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(16, 8), (2, 2), (4, 2)])
def test_a_transposed_convolution_sums_what_each_input_spreads(kernel, stride):
    conv = CausalConvTranspose1d(1, 1, kernel, stride)
    x = values("x", 1, 1, 12)
    assert conv.conv.bias is not None
    expected = torch.zeros(12 * stride + kernel) + conv.conv.bias
    for t in range(12):
        expected[t * stride : t * stride + kernel] += conv.conv.weight[0, 0] * x[0, 0, t]
    assert (conv(x)[0, 0] - expected[: 12 * stride]).abs().max() < 1e-6


def dense_attention(q, k, v, window: int, num_past: int, positions: list[int]) -> torch.Tensor:
    """Softmax attention written query by query."""
    out = torch.zeros_like(q)
    for b, real in enumerate(positions):
        for i in range(q.shape[2]):
            newest = num_past + i
            seen = [
                j for j in range(newest - window + 1, newest + 1) if j >= max(0, num_past - real)
            ]
            scores = torch.einsum("hd,hsd->hs", q[b, :, i], k[b][:, seen]) / math.sqrt(q.shape[-1])
            out[b, :, i] = torch.einsum("hs,hsd->hd", scores.softmax(-1), v[b][:, seen])
    return out


@pytest.mark.parametrize("num_queries", [1, 5, 6, 7, 23])
@pytest.mark.parametrize(("num_past", "positions"), [(0, [0, 0]), (5, [0, 3]), (5, [100, 5])])
def test_windowed_attention_equals_attention_query_by_query(num_queries, num_past, positions):
    window, keys = 6, num_past + num_queries
    q = values("q", 2, 2, num_queries, 4).double()
    k, v = values("k", 2, 2, keys, 4).double(), values("v", 2, 2, keys, 4).double()
    real = torch.tensor(positions) if num_past else None
    blocks = window_blocks(num_queries, window, num_past, real, CPU)
    expected = dense_attention(q, k, v, window, num_past, positions)
    assert (attend(q, k, v, blocks) - expected).abs().max() < 1e-14


def test_masks_grow_with_the_length_and_not_with_its_square():
    def mask_cells(num_queries: int) -> int:
        return sum(b.mask.numel() for b in window_blocks(num_queries, 128, 0, None, CPU))

    assert mask_cells(12_800) <= 101 * mask_cells(128) * 2


def test_rotary_factors_are_bfloat16_values_of_the_analytic_ones():
    factors = rotary_factors(5000, 8, 10_000.0)
    assert factors.shape == (5000, 4)
    for position, pair in ((0, 0), (1, 0), (4999, 0), (4999, 3)):
        angle = position * 10_000.0 ** (-2 * pair / 8)
        expected = complex(math.cos(angle), math.sin(angle))
        assert abs(factors[position, pair].item() - expected) < 2**-8
    parts = torch.view_as_real(factors)
    assert torch.equal(parts, parts.bfloat16().float())


def test_a_rotary_table_grows_and_keeps_its_beginning():
    table = RotaryTable(8, 10_000.0)
    first = table.first(10, CPU).clone()
    longer = table.first(3000, CPU)
    assert torch.equal(longer[:10], first)
    assert torch.equal(longer, rotary_factors(3000, 8, 10_000.0))


def test_a_reserved_rotary_table_stays_where_it_is():
    table = RotaryTable(8, 10_000.0)
    address = table.reserve(2000, CPU).data_ptr()
    table.first(1500, CPU)
    assert table.reserve(2000, CPU).data_ptr() == address
