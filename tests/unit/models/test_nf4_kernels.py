"""The switch to bitsandbytes: taken where it computes right, and never a crash."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backend.models import nf4_kernels
from backend.models.nf4_kernels import use_nf4_kernels
from backend.models.quantized_linear import NF4Linear, quantize_nf4
from tests.parity.tiny_checkpoint import weight_values


class CardThatIsNone:
    """A device that says CUDA; its tensors lie on the CPU."""

    type = "cuda"


class Library:
    """Stands in for bitsandbytes: the same calls, the documented layout, plain arithmetic."""

    __version__ = "0.50.0"

    def __init__(self, factor: float = 1.0) -> None:
        self.functional = SimpleNamespace(QuantState=SimpleNamespace)
        self.factor = factor

    def matmul_4bit(self, x: torch.Tensor, packed: torch.Tensor, quant_state: object) -> object:
        state = vars(quant_state)
        codes = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), dim=1).long()
        blocks = state["code"][codes.flatten()].view(-1, state["blocksize"])
        weight = (blocks * state["absmax"][:, None]).view(state["shape"]).to(state["dtype"])
        return x @ weight.T * self.factor


@pytest.fixture
def model() -> nn.Sequential:
    layers = []
    for number, inputs in enumerate((128, 80)):  # 80 is no whole number of blocks
        layer = NF4Linear(inputs, 16, bias=False)
        weight = weight_values(f"layer {number}", (16, inputs))
        layer.weight_nf4, layer.scale = quantize_nf4(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def install(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)


def use(model: nn.Module) -> str:
    return use_nf4_kernels(model, CardThatIsNone(), torch.float32)  # pyright: ignore[reportArgumentType]


def test_bitsandbytes_reads_our_layout(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = weight_values("x", (3, 128))
    plain = model[0](x)
    install(monkeypatch, Library())
    assert use(model) == "NF4 weights are multiplied by bitsandbytes 0.50.0"
    assert model[0].kernel is not None
    assert torch.allclose(model[0](x), plain, rtol=1e-5, atol=1e-6)
    assert model[1].kernel is None  # its rows end inside a block


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (None, "bitsandbytes is not installed"),
        (SimpleNamespace(__version__="1"), "bitsandbytes does not work"),
        (Library(factor=1.1), "differs by 0.100"),
        (Library(factor=float("nan")), "differs by nan"),
    ],
)
def test_one_step_down_with_a_note(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch, library: object, reason: str
) -> None:
    install(monkeypatch, library)
    assert reason in use(model)
    assert all(layer.kernel is None for layer in model)


def test_a_cpu_keeps_the_plain_way(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Library())
    assert "plain PyTorch" in use_nf4_kernels(model, torch.device("cpu"), torch.float32)
    assert model[0].kernel is None
    assert nf4_kernels.NF4_BLOCK == 64
