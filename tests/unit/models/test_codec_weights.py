"""Reading codec checkpoints: names, weight norm, precision, and files that do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrizations

from backend.core.errors import CheckpointError, CheckpointMismatchError
from backend.models.codec import weights
from backend.models.codec.codec import Codec
from backend.models.codec.config import S1_MINI
from backend.models.codec.rounding import float32_names
from backend.models.codec.weights import (
    fold_weight_norm,
    load_codec,
    read_codec,
    save_codec,
    unfold_weight_norm,
)
from tests.parity.codec_cases import codes_of, recording
from tests.unit.models.codec_building import official_tensors, tiny_codec, tiny_config

ROOT = Path(__file__).parents[3]
POCKET = ROOT / "backend" / "pocket"
COMPUTED = (".freqs_cis", ".causal_mask")


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official ``codec.pth``, without what can be computed."""
    lines = (ROOT / "tests" / "data" / "codec_keys.tsv").read_text("utf-8").splitlines()
    assert len(lines) == 541
    entries = [line.split("\t") for line in lines]
    return {
        name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        for name, shape, _ in entries
        if not name.endswith(COMPUTED)
    }


def write_official(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, file)
    return file


def write_ours(file: Path, tensors: dict[str, torch.Tensor], config: object = None) -> Path:
    text = json.dumps(tiny_config().to_dict() if config is None else config)
    save_file(tensors, file, {"config": text})
    return file


@pytest.fixture
def s1_mini_is_tiny(monkeypatch):
    monkeypatch.setattr(weights, "S1_MINI", tiny_config())


def test_every_tensor_of_the_official_file_has_its_place():
    official = official_shapes()
    assert sum(math.prod(shape) for shape in official.values()) == 391_430_530
    with torch.device("meta"):
        folded = fold_weight_norm({n: torch.empty(s) for n, s in official.items()})
        codec = Codec(S1_MINI)
    ours = {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in folded.items()} == ours


def test_our_names_unfold_to_those_of_the_official_file():
    with torch.device("meta"):
        unfolded = unfold_weight_norm(Codec(S1_MINI).state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in unfolded.items()} == official_shapes()


def test_a_codec_for_decoding_has_less_than_half_of_the_weights():
    with torch.device("meta"):
        codec = Codec(S1_MINI, parts="decode")
    assert sum(parameter.numel() for parameter in codec.parameters()) < 0.48 * 391_430_530


@pytest.mark.parametrize("kind", [torch.nn.Conv1d, torch.nn.ConvTranspose1d])
def test_folding_gives_the_weight_that_torch_computes(kind):
    layer = parametrizations.weight_norm(kind(3, 5, 4))
    stored = {f"x.conv.{name}": tensor for name, tensor in layer.state_dict().items()}
    magnitude, direction = (f"x.conv.parametrizations.weight.original{idx}" for idx in (0, 1))
    stored[magnitude].mul_(1.7)
    classic = {"x.weight_g": stored[magnitude], "x.weight_v": stored[direction]}
    first, second = fold_weight_norm(stored), fold_weight_norm(classic)
    assert (set(first), set(second)) == ({"x.conv.weight", "x.conv.bias"}, {"x.weight"})
    computed = layer.weight
    assert isinstance(computed, torch.Tensor)
    assert (first["x.conv.weight"] - computed).abs().max() < 1e-6
    assert (second["x.weight"] - computed).abs().max() < 1e-6


def test_unfolding_undoes_folding():
    folded = tiny_codec().state_dict()
    again = fold_weight_norm(unfold_weight_norm(folded))
    assert again.keys() == folded.keys()
    assert max((again[name] - folded[name]).abs().max() for name in folded) < 1e-6


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "generator"])
def test_an_official_file_loads_in_each_of_its_wrappings(tmp_path, s1_mini_is_tiny, wrapping):
    tensors = official_tensors(tiny_config())
    tensors["quantizer.pre_module.freqs_cis"] = torch.zeros(3)
    tensors["quantizer.post_module.causal_mask"] = torch.zeros(3, dtype=torch.bool)
    content = tensors
    if wrapping == "state_dict":
        content = {"state_dict": tensors, "epoch": 3}
    elif wrapping == "generator":
        content = {f"generator.{name}": tensor for name, tensor in tensors.items()}
        content["discriminator.0.weight"] = torch.zeros(2)
    torch.save(content, tmp_path / "codec.pth")
    codec = load_codec(tmp_path)
    codes = codes_of(codec.codebook_sizes, 5)
    assert torch.equal(codec.decode_frames(codes), tiny_codec().decode_frames(codes))
    assert not codec.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_what_is_saved_in_our_form_reads_back(tmp_path):
    codec = tiny_codec()
    save_codec(tmp_path / "codec.safetensors", codec.config, codec.state_dict())
    loaded = load_codec(tmp_path)
    assert loaded.config == codec.config
    samples = recording(500)
    assert torch.equal(loaded.encode_reference(samples), codec.encode_reference(samples))


def test_a_file_may_be_stored_in_half_precision(tmp_path):
    codec = tiny_codec()
    file = tmp_path / "codec.safetensors"
    save_codec(file, codec.config, codec.state_dict(), torch.float16)
    assert {tensor.dtype for tensor in read_codec(file)[1].values()} == {torch.float16}
    codes = codes_of(codec.codebook_sizes, 20)
    error = load_codec(file).decode_frames(codes) - codec.decode_frames(codes)
    assert 0 < error.abs().max() < 1e-2


def test_the_pocket_voice_loads_for_decoding_alone():
    codec = load_codec(POCKET, parts="decode")
    assert not codec.can_encode
    samples = codec.decode_frames(torch.zeros(1, codec.num_codebooks, 2, dtype=torch.int64))
    assert samples.shape == (1, 2 * codec.frame_length)
    with pytest.raises(RuntimeError, match='parts="all"'):
        codec.encode_reference(torch.zeros(1, 100))


def test_the_pocket_voice_survives_its_own_round_trip():
    codec = load_codec(POCKET)
    voice = json.loads(sorted((POCKET / "voices").glob("*.json"))[0].read_text("utf-8"))
    codes = torch.tensor(voice["codes"])[None]
    again = codec.encode_reference(codec.decode_frames(codes))
    assert again.shape == codes.shape
    agreement = (again[:, 0] == codes[:, 0]).float().mean()
    chance = 1 / codec.codebook_sizes[0]
    assert agreement > 50 * chance


@pytest.mark.parametrize(("dtype", "floor_db"), [(torch.bfloat16, 20), (torch.float16, 40)])
def test_half_precision_keeps_float32_where_rounding_hurts(tmp_path, dtype, floor_db):
    exact = tiny_codec()
    save_codec(tmp_path / "codec.safetensors", exact.config, exact.state_dict())
    codec = load_codec(tmp_path, dtype=dtype)
    small = float32_names(codec)
    assert {n for n, p in codec.named_parameters() if p.dtype == torch.float32} == small
    assert {n.split(".")[-1] for n in small} == {"alpha", "weight", "bias"}
    assert "decoder.model.4.conv.weight" in small
    codes = codes_of(codec.codebook_sizes, 20)
    samples, expected = codec.decode_frames(codes), exact.decode_frames(codes)
    assert samples.dtype == torch.float32
    noise = (samples - expected).square().mean()
    assert 10 * torch.log10(expected.square().mean() / noise) > floor_db
    assert (codec.decode_chunked(codes, 3) - samples).abs().max() < 10 * noise.sqrt()


def test_tensors_that_do_not_fit_are_named(tmp_path):
    tensors = official_tensors(tiny_config())
    del tensors["quantizer.post_module.norm.weight"]
    tensors["decoder.model.9.surprise"] = torch.zeros(1)
    tensors["encoder.block.0.conv.bias"] = torch.zeros(7)
    file = write_ours(tmp_path / "codec.safetensors", tensors)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_codec(file)
    message = str(caught.value)
    assert "post_module.norm.weight" in message
    assert "decoder.model.9.surprise" in message
    assert "encoder.block.0.conv.bias" in message
    assert str(file) in message


def test_half_a_weight_norm_is_named(tmp_path):
    tensors = official_tensors(tiny_config())
    del tensors["decoder.model.0.conv.parametrizations.weight.original0"]
    file = write_ours(tmp_path / "codec.safetensors", tensors)
    with pytest.raises(CheckpointMismatchError, match=r"decoder\.model\.0\.conv"):
        load_codec(file)


def test_a_magnitude_of_another_layer_is_named(tmp_path):
    tensors = official_tensors(tiny_config())
    tensors["encoder.block.0.conv.parametrizations.weight.original0"] = torch.ones(5, 1, 1)
    file = write_ours(tmp_path / "codec.safetensors", tensors)
    with pytest.raises(CheckpointMismatchError, match=r"encoder\.block\.0\.conv"):
        load_codec(file)


def test_a_directory_without_a_codec_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"codec\.safetensors.*download_model"):
        load_codec(tmp_path)


@pytest.mark.parametrize("config", [["a list"], {"dim": 3}])
def test_a_bad_configuration_in_the_file_is_refused(tmp_path, config):
    file = write_ours(tmp_path / "codec.safetensors", {"x": torch.zeros(1)}, config)
    with pytest.raises(CheckpointError, match="config"):
        load_codec(file)


@pytest.mark.parametrize("metadata", [{}, {"config": "{not json"}])
def test_a_file_without_a_readable_configuration_is_refused(tmp_path, metadata):
    save_file({"x": torch.zeros(1)}, tmp_path / "codec.safetensors", metadata)
    with pytest.raises(CheckpointError, match="'config'"):
        load_codec(tmp_path)


@pytest.mark.parametrize("name", ["codec.safetensors", "codec.pth"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_codec(tmp_path)
