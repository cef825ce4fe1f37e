"""The codec's number formats: which is chosen, and how much of the sound each keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.engine.backends import set_backends
from backend.engine.codec_precision import choose_codec_precision, find_snake_kernel
from backend.models.codec.rounding import float32_names, round_weights
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import codes_of
from tests.unit.models.codec_building import tiny_codec

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
POCKET = Path(__file__).parents[3] / "backend" / "pocket"


def capability(monkeypatch: pytest.MonkeyPatch, value: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: value)


def test_auto_is_exact_on_a_cpu_and_fp16_on_a_card(monkeypatch):
    capability(monkeypatch, (7, 5))
    assert choose_codec_precision("auto", CPU).name == "fp32"
    assert choose_codec_precision("auto", CARD).name == "fp16"
    assert choose_codec_precision("fp32", CARD).dtype == torch.float32


def test_half_precision_on_a_cpu_is_possible_and_noted():
    chosen = choose_codec_precision("bf16", CPU)
    assert chosen.dtype == torch.bfloat16
    assert "slow" in chosen.notes[0]


@pytest.mark.parametrize(("version", "name"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_a_card_without_bf16_units_uses_fp16_instead(monkeypatch, version, name):
    capability(monkeypatch, version)
    chosen = choose_codec_precision("bf16", CARD)
    assert chosen.name == name
    assert bool(chosen.notes) == (name == "fp16")


def test_process_wide_flags_follow_the_precision_and_are_told(monkeypatch):
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    capability(monkeypatch, (9, 0))
    try:
        [rounded] = set_backends(choose_codec_precision("fp16", CARD))
        assert cudnn.allow_tf32
        [exact] = set_backends(choose_codec_precision("fp32", CARD))
        assert not cudnn.allow_tf32
        assert set_backends(choose_codec_precision("auto", CPU)) == ()
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before
    assert "TF32 outside the codebooks" in rounded
    assert "no TF32" in exact


def test_there_is_no_kernel_on_a_cpu():
    assert find_snake_kernel(CPU) == (None, ())


@pytest.mark.parametrize(("dtype", "least_db"), [(torch.float16, 55.0), (torch.bfloat16, 38.0)])
def test_half_precision_keeps_most_of_the_pocket_voices_sound(dtype, least_db):
    exact = load_codec(POCKET, parts="decode")
    codes = codes_of(exact.codebook_sizes, 6)
    expected = exact.decode_frames(codes)
    error = load_codec(POCKET, dtype=dtype, parts="decode").decode_frames(codes) - expected
    assert 20 * torch.log10(expected.norm() / error.norm()) > least_db


def test_rounded_weights_leave_out_what_must_stay_exact():
    codec = round_weights(tiny_codec(), torch.float16)
    exact = float32_names(codec)
    assert exact
    for name, parameter in codec.named_parameters():
        assert parameter.dtype == (torch.float32 if name in exact else torch.float16)
