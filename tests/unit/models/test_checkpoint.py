from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.core.errors import CheckpointError, CheckpointMismatchError
from backend.models.checkpoint import describe_checkpoint, load_dual_ar, revision
from backend.models.dual_ar import DualAR
from backend.models.tensor_files import write_safetensors
from tests.parity.tiny_checkpoint import tiny_weights

Edit = Callable[[dict[str, Tensor]], dict[str, Any]]


@pytest.fixture
def directory(tiny_directory: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return Path(shutil.copytree(tiny_directory, tmp_path / "model"))


@pytest.fixture
def whole_directory(directory: Path) -> Path:
    """A checkpoint with something in the place of the codec."""
    (directory / "codec.pth").write_bytes(bytes(5 << 20))
    return directory


def loaded(directory: Path) -> DualAR:
    return load_dual_ar(directory, "cpu", torch.float32)


def same_weights(left: DualAR, right: DualAR) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def with_prefix(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 1}


def with_audio_input(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {**weights, "audio_projector.weight": torch.ones(2)}


def with_separate_projections(weights: dict[str, Tensor]) -> dict[str, Any]:
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith("wqkv.weight"):
            half = value.shape[0] // 2  # q is as large as k and v together in this checkpoint
            parts = value.split([half, half // 2, half // 2])
            stem = name.removesuffix("qkv.weight")
            out |= {f"{stem}{which}.weight": p for which, p in zip("qkv", parts, strict=True)}
        else:
            out[name] = value
    return out


def with_idle_lora(weights: dict[str, Tensor]) -> dict[str, Any]:
    out_features, in_features = weights["output.weight"].shape
    lora = {
        "output.lora_A": torch.ones(2, in_features),
        "output.lora_B": torch.zeros(out_features, 2),
    }
    return {"state_dict": {**weights, **lora}, "lora_alpha": 16}


@pytest.mark.parametrize(
    "edit", [with_prefix, with_audio_input, with_separate_projections, with_idle_lora]
)
def test_every_official_spelling_gives_the_same_network(
    directory: Path, tiny_directory: Path, edit: Edit
) -> None:
    torch.save(edit(tiny_weights("s1")), directory / "model.pth")
    assert same_weights(loaded(directory), loaded(tiny_directory))


def test_both_containers_give_the_same_network(directory: Path, tiny_directory: Path) -> None:
    (directory / "model.pth").unlink()
    write_safetensors(tiny_weights("s1"), directory / "model.safetensors", {})
    assert same_weights(loaded(directory), loaded(tiny_directory))


def test_a_loaded_network_is_complete_and_ready(tiny_directory: Path) -> None:
    model = load_dual_ar(tiny_directory, torch.device("cpu"), torch.bfloat16, residual_size=100)
    assert not model.training
    assert not any(value.is_meta for value in [*model.parameters(), *model.buffers()])
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert model.num_semantic == 1040
    assert model.semantic_head is not None
    assert model.semantic_head.is_contiguous()
    assert model.residual_size == 100


def test_loading_draws_no_random_numbers(tiny_directory: Path) -> None:
    before = torch.get_rng_state()
    loaded(tiny_directory)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_file_may_be_replaced_while_its_weights_are_used(directory: Path) -> None:
    model = loaded(directory)
    before = model.norm.weight.clone()
    (directory / "model.pth").write_bytes(bytes((directory / "model.pth").stat().st_size))
    assert torch.equal(model.norm.weight, before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("layers.1.ffn_norm.weight"), "1 missing: layers.1.ffn_norm"),
        (lambda weights: weights.update({"x.y": torch.ones(3)}), r"1 unknown: x.y \(3,\)"),
        (
            lambda weights: weights.update({"norm.weight": torch.ones(3)}),
            r"norm.weight is \(3,\), must be \(64,\)",
        ),
        (
            lambda weights: weights.update({"layers.0.attention.wo.scales": torch.ones(64)}),
            "unknown: layers.0.attention.wo.scales",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    directory: Path, change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    weights = tiny_weights("s1")
    change(weights)
    torch.save(weights, directory / "model.pth")
    with pytest.raises(CheckpointMismatchError, match=named):
        loaded(directory)


def test_lora_updates_without_their_scale_are_refused_with_the_fix(directory: Path) -> None:
    torch.save(with_idle_lora(tiny_weights("s1"))["state_dict"], directory / "model.pth")
    with pytest.raises(CheckpointError, match="--lora-alpha"):
        loaded(directory)


@pytest.mark.parametrize(
    ("key", "value", "named"), [("vocab_size", 1000, "1511 ids"), ("codebook_size", 512, "1040")]
)
def test_a_tokenizer_of_another_model_is_refused(
    directory: Path, key: str, value: int, named: str
) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(CheckpointMismatchError, match=named):
        loaded(directory)


def test_files_are_found_and_safetensors_come_first(whole_directory: Path) -> None:
    assert describe_checkpoint(whole_directory).model.name == "model.pth"
    (whole_directory / "model.safetensors").touch()
    files = describe_checkpoint(whole_directory)
    assert files.model.name == "model.safetensors"
    assert files.codec.name == "codec.pth"
    assert files.config.parent == whole_directory


def test_missing_files_are_listed_with_the_way_to_get_them(directory: Path) -> None:
    (directory / "special_tokens.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        describe_checkpoint(directory)
    message = str(caught.value)
    assert "missing special_tokens.json, codec.safetensors or codec.pth." in message
    assert "scripts/download_model.py" in message


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        describe_checkpoint(tmp_path / "nowhere")


def test_the_revision_follows_the_content_alone(whole_directory: Path, tmp_path: Path) -> None:
    first = revision(whole_directory)
    assert len(first) == 16
    copy = Path(shutil.copytree(whole_directory, tmp_path / "copy"))
    assert revision(copy) == first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.tiktoken", "special_tokens.json"])
def test_the_revision_changes_with_a_small_file(whole_directory: Path, name: str) -> None:
    before = revision(whole_directory)
    path = whole_directory / name
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert revision(whole_directory) != before


@pytest.mark.parametrize("place", [0, 2_500_000, (5 << 20) - 1])
def test_the_revision_changes_with_a_weight(whole_directory: Path, place: int) -> None:
    before = revision(whole_directory)
    with (whole_directory / "codec.pth").open("r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    assert revision(whole_directory) != before
