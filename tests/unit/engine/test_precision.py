"""Device, number format and what is refused."""

import pytest
import torch

from backend.core.errors import ConfigurationError
from backend.core.settings import Settings, read_settings
from backend.engine.precision import choose_precision, cpu_threads


def settings(**values: object) -> Settings:
    return read_settings(None, **values)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """One CUDA card whose compute capability the test sets."""
    capability = [(8, 9)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    return capability


@pytest.mark.parametrize(
    ("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")]
)
def test_auto_takes_bf16_from_ampere_on(
    card: list[tuple[int, int]], capability: tuple[int, int], name: str
):
    card[0] = capability
    precision = choose_precision(settings())
    assert (precision.name, str(precision.device)) == (name, "cuda:0")


def test_auto_takes_fp32_on_a_cpu():
    precision = choose_precision(settings(device="cpu"))
    assert (precision.name, precision.dtype) == ("fp32", torch.float32)


def test_a_wish_for_a_precision_is_followed():
    assert choose_precision(settings(device="cpu", mixed_precision="bf16")).dtype is torch.bfloat16


def test_a_slow_choice_is_noted():
    [note] = choose_precision(settings(device="cpu", mixed_precision="fp16")).notes
    assert "slow" in note


def test_a_missing_cuda_device_is_an_error_and_no_silent_fallback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="DEVICE=cuda: this PyTorch"):
        choose_precision(settings(device="cuda"))


@pytest.mark.usefixtures("card")
def test_a_card_that_is_not_there_is_an_error():
    with pytest.raises(ConfigurationError, match="only 1 CUDA"):
        choose_precision(settings(device="cuda:1"))


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (64, 8)])
def test_one_core_is_left_to_the_rest(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert cpu_threads(settings()) == threads
    assert cpu_threads(settings(cpu_threads=5)) == 5
