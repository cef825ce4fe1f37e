from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from backend.models.checkpoint import load_dual_ar
from backend.models.tensor_files import read_metadata, read_tensors
from scripts.convert_checkpoint import main
from tests.parity.tiny_checkpoint import tiny_weights, write_tiny_checkpoint

POCKET = Path(__file__).resolve().parents[3] / "backend" / "pocket"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the pocket codec and what else may lie in such a folder."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("source") / "model", "s1")
    shutil.copy(POCKET / "codec.safetensors", folder)
    (folder / "README.md").write_text("the licence of the weights", encoding="utf-8")
    (folder / "voices").mkdir()
    (folder / "voices" / "someone.json").write_text("{}", encoding="utf-8")
    (folder / "optimizer.bin").write_bytes(b"large")
    return folder


def same_tensors(left: Path, right: Path) -> bool:
    one, other = read_tensors(left), read_tensors(right)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_there_and_back_again_gives_the_same_tensors(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, official = tmp_path / "ours", tmp_path / "official"
    assert main([str(source), str(ours)]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["model"] == "model.safetensors"
    assert facts["model_bytes"] == (ours / "model.safetensors").stat().st_size
    assert main([str(ours), str(official), "--to", "official"]) == 0
    assert same_tensors(ours / "model.safetensors", source / "model.pth")
    assert same_tensors(official / "model.pth", source / "model.pth")
    assert read_metadata(ours / "model.safetensors") == {
        "format": "fish-speech-server/1",
        "quantization": "none",
    }
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["codec"] == "codec.safetensors"  # sizes other than S1-mini's have no official form


def test_the_codec_sounds_the_same_after_conversion(source: Path, tmp_path: Path) -> None:
    from backend.models.codec.weights import load_codec

    assert main([str(source), str(tmp_path / "ours")]) == 0
    before, after = load_codec(source), load_codec(tmp_path / "ours")
    assert before.config == after.config
    num_codebooks = before.num_codebooks
    codes = torch.arange(6 * num_codebooks).reshape(1, num_codebooks, 6) * 7 % 512
    assert torch.equal(before.decode_frames(codes), after.decode_frames(codes))


def test_companions_travel_and_other_weights_stay(source: Path, tmp_path: Path) -> None:
    assert main([str(source), str(tmp_path / "ours")]) == 0
    names = {str(p.relative_to(tmp_path / "ours")) for p in (tmp_path / "ours").rglob("*.*")}
    assert names == {
        "README.md",
        "codec.safetensors",
        "config.json",
        "model.safetensors",
        "special_tokens.json",
        "tokenizer.tiktoken",
        str(Path("voices", "someone.json")),
    }


def test_the_precision_of_the_weights_can_be_chosen(source: Path, tmp_path: Path) -> None:
    assert main([str(source), str(tmp_path / "half"), "--dtype", "bf16"]) == 0
    stored = read_tensors(tmp_path / "half" / "model.safetensors")
    expected = {name: value.bfloat16() for name, value in tiny_weights("s1").items()}
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


def test_lora_updates_from_a_file_are_merged(source: Path, tmp_path: Path) -> None:
    weights = tiny_weights("s1")
    down, up = torch.full((2, 64), 0.5), torch.full((1524, 2), 0.25)
    lora = {"model.output.lora_A": down, "model.output.lora_B": up}
    torch.save({"state_dict": lora}, tmp_path / "lora.ckpt")
    arguments = [str(source), str(tmp_path / "tuned"), "--lora", str(tmp_path / "lora.ckpt")]
    assert main(arguments) == 1  # the scale is not known
    assert main([*arguments, "--lora-alpha", "4"]) == 0
    model = load_dual_ar(tmp_path / "tuned", "cpu", torch.float32)
    assert model.output is not None
    torch.testing.assert_close(model.output.weight.data, weights["output.weight"] + 0.5)
    assert torch.equal(model.norm.weight, weights["norm.weight"])


def test_a_number_too_large_for_the_precision_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    weights = tiny_weights("s1")
    weights["norm.weight"][0] = 1e6
    torch.save(weights, folder / "model.pth")
    assert main([str(folder), str(tmp_path / "half"), "--dtype", "fp16"]) == 1
    assert "norm.weight is not finite" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_folders_that_would_be_overwritten_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for destination in (source, source / "inside"):
        assert main([str(source), str(destination)]) == 1
        assert "outside SRC" in capsys.readouterr().err
    (tmp_path / "model.pth").touch()
    assert main([str(source), str(tmp_path)]) == 1
    assert "holds weight files already" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path.parent / "new")]) == 1
    assert "missing config.json" in capsys.readouterr().err
