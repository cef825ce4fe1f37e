from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.errors import CheckpointError
from backend.core.model_location import POCKET_DIR, resolve_model_dir
from backend.core.settings import Settings


def model_at(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    return directory


def test_pocket_is_inside_the_project():
    assert resolve_model_dir(Settings(model="pocket")) == POCKET_DIR
    assert (POCKET_DIR / "model.safetensors").is_file()


def test_s1_mini_is_looked_for_in_the_models_directory(tmp_path: Path):
    expected = model_at(tmp_path / "openaudio-s1-mini")
    found = resolve_model_dir(Settings(model="openaudio-s1-mini", models_dir=tmp_path))
    assert found == expected


def test_absent_s1_mini_names_the_download(tmp_path: Path):
    with pytest.raises(CheckpointError) as refused:
        resolve_model_dir(Settings(model="openaudio-s1-mini", models_dir=tmp_path))
    assert "python scripts/download_model.py" in str(refused.value)
    assert str(tmp_path / "openaudio-s1-mini") in str(refused.value)


def test_any_other_value_is_a_path(tmp_path: Path):
    expected = model_at(tmp_path / "my model")
    assert resolve_model_dir(Settings(model=str(expected))) == expected


def test_missing_path_says_what_was_tried_and_what_is_possible(tmp_path: Path):
    with pytest.raises(CheckpointError) as refused:
        resolve_model_dir(Settings(model=str(tmp_path / "nowhere")))
    message = str(refused.value)
    assert str(tmp_path / "nowhere") in message
    assert "no such directory" in message
    assert "pocket" in message
    assert "openaudio-s1-mini" in message


def test_directory_without_config_is_no_model(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        resolve_model_dir(Settings(model=str(tmp_path)))
