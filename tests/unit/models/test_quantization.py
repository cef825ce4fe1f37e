"""Quantizing the network: what is, what is not, and both ways of loading it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.core.errors import CheckpointError, CheckpointMismatchError, SettingsError
from backend.models.checkpoint import load_dual_ar
from backend.models.dual_ar import DualAR
from backend.models.quantization import linear_names
from backend.models.quantized_linear import NF4Linear, QuantizedLinear
from backend.models.tensor_files import read_tensor_file
from scripts.convert_checkpoint import main as convert
from tests.parity.speaking import GrowingStore
from tests.parity.tiny_checkpoint import write_tiny_checkpoint

POCKET = Path(__file__).resolve().parents[3] / "backend" / "pocket"
BOUNDS = {"int8": 0.01, "nf4": 0.10}
KINDS = {"int8": QuantizedLinear, "nf4": NF4Linear}


def load(folder: Path, scheme: str = "none", dtype: torch.dtype = torch.float32) -> DualAR:
    return load_dual_ar(folder, "cpu", dtype, quantization=scheme)


@pytest.fixture(scope="module")
def plain() -> DualAR:
    return load(POCKET)


@pytest.fixture(scope="module", params=["int8", "nf4"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(scheme: str) -> DualAR:
    return load(POCKET, scheme)


@pytest.fixture(scope="module")
def saved(scheme: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / scheme
    assert convert([str(POCKET), str(folder), "--quantize", scheme]) == 0
    return folder


def test_every_linear_of_both_stacks_is_quantized_and_nothing_else(
    plain: DualAR, loaded: DualAR, scheme: str
) -> None:
    names = linear_names(plain)
    assert len(names) == 5 * (plain.config.n_layer + plain.config.n_fast_layer)
    assert "layers.0.attention.wqkv" in names
    assert "fast_layers.1.attention.wo" in names
    assert names == linear_names(loaded)
    assert all(isinstance(loaded.get_submodule(name), KINDS[scheme]) for name in names)
    kept = dict(loaded.named_parameters())
    assert kept.keys() == plain.state_dict().keys() - {f"{name}.weight" for name in names}
    for name, value in kept.items():
        assert torch.equal(value, plain.get_parameter(name)), name


def test_the_error_of_every_layer_is_bounded(plain: DualAR, loaded: DualAR, scheme: str) -> None:
    for name in linear_names(plain):
        weight, layer = plain.get_parameter(f"{name}.weight"), loaded.get_submodule(name)
        assert isinstance(layer, QuantizedLinear | NF4Linear)
        error = (layer.dequantized(torch.float32) - weight).norm() / weight.norm()
        assert float(error) <= BOUNDS[scheme], name


def test_a_saved_network_is_the_loaded_one_bit_by_bit(
    loaded: DualAR, saved: Path, scheme: str
) -> None:
    assert read_metadata_of(saved) == scheme
    again, first = load(saved, scheme).state_dict(), loaded.state_dict()
    assert again.keys() == first.keys()
    for name, value in first.items():
        assert again[name].dtype == value.dtype, name
        assert torch.equal(again[name], value), name


def read_metadata_of(folder: Path) -> str:
    return read_tensor_file(folder / "model.safetensors", ("int8", "nf4")).metadata["quantization"]


def test_codes_and_scales_keep_their_formats_in_bf16(saved: Path, scheme: str) -> None:
    for folder in (POCKET, saved):
        layer = load(folder, scheme, torch.bfloat16).get_submodule("layers.0.attention.wo")
        kinds = {name: value.dtype for name, value in layer.state_dict().items()}
        assert (
            kinds
            == {
                "int8": {"weight_int8": torch.int8, "scale": torch.float32},
                "nf4": {"weight_nf4": torch.uint8, "scale": torch.float16},
            }[scheme]
        )


def test_the_file_is_smaller(saved: Path, scheme: str) -> None:
    plain_bytes = (POCKET / "model.safetensors").stat().st_size
    share = (saved / "model.safetensors").stat().st_size / plain_bytes
    # the pocket file is bf16, and embeddings and heads stay
    assert share < {"int8": 0.6, "nf4": 0.4}[scheme]


@pytest.mark.parametrize("wanted", ["none", "int8", "nf4"])
def test_another_setting_than_the_file_is_refused_with_the_fix(
    saved: Path, scheme: str, wanted: str
) -> None:
    if wanted == scheme:
        assert load(saved, wanted).config == load(POCKET).config
        return
    with pytest.raises(SettingsError, match=f"set QUANTIZATION={scheme}, or use the directory"):
        load(saved, wanted)


def test_a_quantized_file_is_no_source_for_a_conversion(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert([str(saved), str(tmp_path / "again"), "--quantize", "int8"]) == 1
    assert "only plain weights can be read here" in capsys.readouterr().err


def test_the_official_form_has_no_quantized_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(POCKET), str(tmp_path / "x"), "--to", "official", "--quantize", "int8"]
    assert convert(arguments) == 1
    assert "no quantized weights" in capsys.readouterr().err


def test_another_type_of_codes_is_refused_by_name(saved: Path, scheme: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    file = read_tensor_file(folder / "model.safetensors", (scheme,))
    tensors = dict(file.tensors)
    name = f"layers.3.feed_forward.w2.weight_{scheme}"
    tensors[name] = tensors[name].to(torch.int16)
    save_file(tensors, folder / "other.safetensors", dict(file.metadata))
    (folder / "other.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"layers\.3.*w2.* is torch.int16, must be"):
        load(folder, scheme)


def test_weights_that_are_not_finite_are_refused_by_name(scheme: str, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "broken", "s1")
    tensors = torch.load(folder / "model.pth", weights_only=True)
    tensors["layers.1.attention.wo.weight"][3, 2] = float("inf")
    torch.save(tensors, folder / "model.pth")
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.wo\.weight cannot be stored"):
        load(folder, scheme)


@pytest.mark.parametrize("variant", ["s1", "turned"])
def test_other_configurations_load_too(variant: str, scheme: str, tmp_path: Path) -> None:
    """Biases, an input projection, widths that are no whole blocks."""
    folder = write_tiny_checkpoint(tmp_path / variant, variant)
    exact, model = load(folder), load(folder, scheme)
    rows = torch.zeros(1, 11, 6, dtype=torch.int64)
    rows[0, 0] = torch.arange(40, 46)
    outputs = [
        each.slow(rows, torch.arange(6)[None], GrowingStore()).flatten() for each in (exact, model)
    ]
    error = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    assert 0.0 < error < 4 * BOUNDS[scheme]
