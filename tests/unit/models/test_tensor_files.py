from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.core.errors import CheckpointError, CheckpointMismatchError
from backend.models.tensor_files import (
    assign_strict,
    read_metadata,
    read_tensor_file,
    read_tensors,
    write_safetensors,
)

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


class Opaque:
    """Something that only code could rebuild."""


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def tiny_module() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def weights() -> dict[str, Tensor]:
    return {
        "0.weight": torch.full((2, 3), 0.5),
        "0.bias": torch.zeros(2),
        "1.weight": torch.ones(2),
        "1.bias": torch.zeros(2),
    }


def test_both_containers_give_the_same_tensors(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pth")
    write_safetensors(TENSORS, tmp_path / "x.safetensors", {"note": "hello"})
    for name in ("x.pth", "x.safetensors"):
        assert same(dict(read_tensors(tmp_path / name)), TENSORS)
    assert read_metadata(tmp_path / "x.pth") == {}
    assert read_metadata(tmp_path / "x.safetensors") == {
        "format": "fish-speech-server/1",
        "quantization": "none",
        "note": "hello",
    }


def test_a_training_wrapper_is_taken_off_and_its_rest_kept(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "lora_alpha": 16, "epoch": 3}, tmp_path / "x.ckpt")
    file = read_tensor_file(tmp_path / "x.ckpt")
    assert same(dict(file.tensors), TENSORS)
    assert file.metadata == {"lora_alpha": 16, "epoch": 3}


def test_a_written_file_replaces_the_old_one_and_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    old_umask = os.umask(0o022)
    try:
        write_safetensors(TENSORS, path, {})
    finally:
        os.umask(old_umask)
    assert same(dict(read_tensors(path)), TENSORS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(TENSORS, path, {})
    shared = torch.ones(4)
    with pytest.raises(RuntimeError):
        write_safetensors({"a": shared, "b": shared}, path, {})
    assert same(dict(read_tensors(path)), TENSORS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def damaged_safetensors(path: Path) -> None:
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-8])


def damaged_pickle(path: Path) -> None:
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("name", "write", "named"),
    [
        ("x.safetensors", damaged_safetensors, "download it again"),
        ("x.safetensors", lambda path: path.write_bytes(b""), "download it again"),
        ("x.pth", damaged_pickle, "download it again"),
        ("x.pth", lambda path: path.write_text("<html>gated</html>"), "download it again"),
        ("x.pth", lambda path: torch.save({"a": Opaque()}, path), "state_dict alone"),
        ("x.pth", lambda path: torch.save([1, 2], path), "holds list"),
        ("x.pth", lambda path: torch.save({"a": 1}, path), "a is int, not a tensor"),
        (
            "x.safetensors",
            lambda path: save_file(TENSORS, path, {"format": "fish-speech-server/2"}),
            "this version reads fish-speech-server/1",
        ),
        (
            "x.safetensors",
            lambda path: save_file(TENSORS, path, {"quantization": "int8"}),
            "quantization 'int8'",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_fix(
    tmp_path: Path, name: str, write: Callable[[Path], object], named: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=named) as caught:
        read_tensors(tmp_path / name)
    assert name in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth: no such file"):
        read_tensors(tmp_path / "x.pth")


def test_reading_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors({"a": torch.zeros(1 << 20)}, path, {})
    before = read_tensors(path)["a"]
    with path.open("r+b") as file:  # the last float of the file becomes 1
        file.seek(-4, os.SEEK_END)
        file.write(torch.ones(1).numpy().tobytes())
    assert before[-1] == 1


def test_weights_are_assigned_in_the_wanted_type_and_own_memory() -> None:
    module, given = tiny_module(), weights()
    assign_strict(module, given, torch.bfloat16, "cpu", "x")
    given["1.weight"].zero_()
    state = module.state_dict()
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    assert torch.equal(state["1.weight"], torch.ones(2, dtype=torch.bfloat16))
    assert not any(value.is_meta for value in state.values())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_weights_that_need_no_conversion_are_copied_too() -> None:
    module, given = tiny_module(), weights()
    assign_strict(module, given, torch.float32, "cpu", "x")
    given["1.weight"].zero_()
    assert torch.equal(module.state_dict()["1.weight"], torch.ones(2))


def test_integers_keep_their_type() -> None:
    module = nn.Module()
    module.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
    assign_strict(module, {"counts": torch.arange(3)}, torch.bfloat16, "cpu", "x")
    assert torch.equal(module.state_dict()["counts"], torch.arange(3))


def test_missing_extra_and_misshaped_tensors_are_all_named() -> None:
    given = weights()
    del given["0.bias"]
    given["surprise"] = torch.zeros(4)
    given["0.weight"] = torch.zeros(3, 2)
    with pytest.raises(CheckpointMismatchError) as caught:
        assign_strict(tiny_module(), given, torch.float32, "cpu", "some/model.pth")
    message = str(caught.value)
    assert message.startswith("some/model.pth: ")
    assert "1 missing: 0.bias (2,)" in message
    assert "1 unknown: surprise (4,)" in message
    assert "1 misshaped: 0.weight is (3, 2), must be (2, 3)" in message


def test_a_long_list_of_problems_is_cut() -> None:
    given = {**weights(), **{f"extra.{index}": torch.zeros(1) for index in range(40)}}
    with pytest.raises(CheckpointMismatchError, match=r"40 unknown: .*, and 28 more"):
        assign_strict(tiny_module(), given, torch.float32, "cpu", "x")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_numbers_that_the_precision_cannot_hold_are_refused(bad: float) -> None:
    given = weights()
    given["0.weight"][1, 2] = bad
    with pytest.raises(CheckpointError, match=r"0\.weight is not finite in torch\.float16"):
        assign_strict(tiny_module(), given, torch.float16, "cpu", "x")
