"""Layers with fewer bits: their error, their layout, and what they compute."""

from __future__ import annotations

import pytest
import torch

from backend.models import quantized_linear
from backend.models.quantized_linear import (
    NF4_VALUES,
    NF4Linear,
    QuantizedLinear,
    nf4_width,
    quantize_int8,
    quantize_nf4,
)
from tests.parity.tiny_checkpoint import weight_values

SIZES = [(96, 128), (33, 64), (8, 320), (5, 80), (7, 1)]
"""(N, K); 80 and 1 are no whole blocks of 64."""
BOUNDS = {"int8": 0.01, "nf4": 0.10}


def weight_of(size: tuple[int, int]) -> torch.Tensor:
    """About normal, as trained weights are: a sum of twelve even ones; rows of different size."""
    parts = [weight_values(f"{size} {part}", size) for part in range(12)]
    sizes = 2.0 ** -(5 + torch.arange(size[0]) % 3)
    return torch.stack(parts).sum(0) * sizes[:, None]


def layer_of(scheme: str, weight: torch.Tensor) -> QuantizedLinear | NF4Linear:
    outputs, inputs = weight.shape
    if scheme == "int8":
        layer = QuantizedLinear(inputs, outputs, bias=True)
        layer.weight_int8, layer.scale = quantize_int8(weight)
    else:
        layer = NF4Linear(inputs, outputs, bias=True)
        layer.weight_nf4, layer.scale = quantize_nf4(weight)
    assert layer.bias is not None
    layer.bias.data = weight_values("bias", (outputs,))
    return layer.requires_grad_(requires_grad=False)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_the_error_of_weights_and_outputs_is_bounded(scheme: str, size: tuple[int, int]) -> None:
    weight = weight_of(size)
    layer = layer_of(scheme, weight)
    x = weight_values("input", (64, size[1]))
    assert relative(layer.dequantized(torch.float32), weight) <= BOUNDS[scheme]
    assert layer.bias is not None
    assert relative(layer(x) - layer.bias, x @ weight.T) <= BOUNDS[scheme]


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float32, 1e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)],
)
def test_every_number_format_computes_the_same(
    scheme: str, dtype: torch.dtype, bound: float
) -> None:
    layer = layer_of(scheme, weight_of((32, 320)))
    layer.bias = None
    x = weight_values("input", (2, 3, 320)).to(dtype)
    out = layer(x)
    assert out.shape == (2, 3, 32)
    assert out.dtype == dtype
    assert relative(out, x.double() @ layer.dequantized(torch.float32).double().T) <= bound


@pytest.mark.parametrize("size", [(64, 64), (128, 320), *SIZES])
def test_the_packed_matmul_equals_the_plain_one(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of("int8", weight_of(size))
    x = weight_values("input", (3, size[1])).bfloat16()
    packed = layer(x)
    monkeypatch.setattr(quantized_linear, "_PACKED_MATMUL", None)
    assert relative(packed, layer(x)) <= 8e-3


def test_int8_rows_use_the_whole_range_and_keep_zero() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [-3e-5, 1e-5, 0.0]])
    codes, scale = quantize_int8(weight)
    assert codes.tolist()[1] == [0, 0, 0]
    assert (codes.abs().amax(1)[[0, 2]] >= 126).all()
    assert (codes[:, 2] == 0).all()
    assert scale.dtype == torch.float32
    assert torch.equal(scale, scale.bfloat16().float())


def test_int8_never_clips_the_largest_weight() -> None:
    weight = weight_values("many rows", (4096, 4)) * 7
    codes, scale = quantize_int8(weight)
    assert ((codes * scale[:, None] - weight).abs() <= scale[:, None] / 2 * 1.0001).all()


def test_nf4_stores_its_sixteen_values_exactly_and_in_order() -> None:
    row = torch.tensor([NF4_VALUES * 4])
    packed, scale = quantize_nf4(row)
    assert packed.shape == (1, 32)
    assert packed[0, :8].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    assert scale.tolist() == [[1.0]]
    layer = NF4Linear(64, 1, bias=False)
    layer.weight_nf4, layer.scale = packed, scale
    assert torch.equal(layer.dequantized(torch.float32), row)


def test_nf4_blocks_do_not_leave_their_row_and_zero_stays_zero() -> None:
    weight = torch.zeros(2, 80)
    weight[1, 70] = -8.0
    layer = NF4Linear(80, 2, bias=False)
    layer.weight_nf4, layer.scale = quantize_nf4(weight)
    assert layer.scale.tolist() == [[0.0, 0.0], [0.0, 8.0]]
    assert torch.equal(layer.dequantized(torch.float32), weight)


def test_what_is_stored_lies_row_after_row() -> None:
    weight = weight_of((96, 128)).T  # not contiguous
    for scheme in ("int8", "nf4"):
        layer = layer_of(scheme, weight)
        for value in layer.state_dict().values():
            assert value.is_contiguous()
    assert nf4_width(96) == 128
