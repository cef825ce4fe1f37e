from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.settings import FOREIGN_KEYS, Settings, read_settings
from scripts.make_env_example import PATH, key_of, render
from ui.settings import UiSettings, read_ui_settings


def uncommented(text: str) -> str:
    """Give the example with every setting in force."""
    keys = {key_of(kind, name) for kind in (Settings, UiSettings) for name in kind.model_fields}
    lines = text.splitlines()
    return "\n".join(
        line.removeprefix("#") if line[1:].partition("=")[0] in keys else line for line in lines
    )


def test_example_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == render()


def test_example_names_every_setting_once():
    lines = render().splitlines()
    for kind in (Settings, UiSettings):
        for name in kind.model_fields:
            assert sum(line.startswith(f"#{key_of(kind, name)}=") for line in lines) == 1


def test_example_as_it_is_changes_nothing(tmp_path: Path):
    path = tmp_path / ".env"
    path.write_text(render(), encoding="utf-8")
    assert read_settings(path) == Settings()
    assert read_ui_settings(path) == UiSettings()


def test_example_states_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / ".env"
    # a secret left empty is not the same as one left out
    text = uncommented(render()).replace("HF_TOKEN=\n", "")
    path.write_text(text.replace("UI_API_KEY=\n", "").removesuffix("UI_API_KEY="), encoding="utf-8")
    assert read_settings(path) == Settings()
    assert read_ui_settings(path) == UiSettings()


def test_service_lets_every_key_of_the_pages_stand_in_its_file():
    assert {key_of(UiSettings, name) for name in UiSettings.model_fields} == FOREIGN_KEYS


def test_ranges_are_stated():
    text = render()
    assert "# Allowed: 1 to 65535.\n#PORT=8000" in text
    assert "# Allowed: none, int8, nf4.\n#QUANTIZATION=none" in text
    assert "# Allowed: true or false.\n#ENABLE_TORCH_COMPILE=false" in text
