from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from backend.core.errors import SettingsError
from backend.core.settings import Settings, read_settings


def env_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / ".env"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_speak_with_the_pocket_voice_on_this_machine_only():
    settings = read_settings(None)
    assert settings.model == "pocket"
    assert settings.host == "127.0.0.1"


def test_file_is_read_and_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = env_file(tmp_path, "# comment\n\nPORT=8123\nexport MAX_SLOTS=2\nMODEL=from-file\n")
    monkeypatch.setenv("MODEL", "from-environment")
    settings = read_settings(path)
    assert (settings.port, settings.max_slots, settings.model) == (8123, 2, "from-environment")


def test_overrides_win_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "8001")
    assert read_settings(env_file(tmp_path, "PORT=8002"), port=8003).port == 8003


def test_absent_file_is_no_error(tmp_path: Path):
    assert read_settings(tmp_path / "absent").port == 8000


def test_windows_file_with_byte_order_mark_is_read(tmp_path: Path):
    path = tmp_path / ".env"
    path.write_bytes("﻿PORT=8123\r\nMODEL=pocket\r\n".encode())
    assert read_settings(path).port == 8123


@pytest.mark.parametrize(
    ("key", "meant"),
    [("QUANTISATION", "QUANTIZATION"), ("MAX_SLOT", "MAX_SLOTS"), ("MODLE", "MODEL")],
)
def test_unknown_key_in_the_file_stops_with_a_suggestion(tmp_path: Path, key: str, meant: str):
    with pytest.raises(SettingsError, match=f"unknown setting {key} .*did you mean {meant}"):
        read_settings(env_file(tmp_path, f"{key}=1"))


def test_key_that_resembles_nothing_points_at_the_example(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"unknown setting ZZZ .*\.env\.example"):
        read_settings(env_file(tmp_path, "ZZZ=1"))


def test_keys_of_the_pages_may_stand_in_the_same_file(tmp_path: Path):
    text = "UI_GRADIO_PORT=7861\nUI_BACKEND_URL=http://127.0.0.1:8000\nPORT=8001\n"
    assert read_settings(env_file(tmp_path, text)).port == 8001


def test_line_that_is_no_pair_stops(tmp_path: Path):
    with pytest.raises(SettingsError, match="'PORT' is not KEY=value"):
        read_settings(env_file(tmp_path, "PORT"))


def test_near_miss_in_the_environment_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUANTISATION", "int8")
    with pytest.raises(SettingsError, match="did you mean QUANTIZATION"):
        read_settings(None)


def test_foreign_keys_in_the_environment_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOSTNAME", "box")
    monkeypatch.setenv("MODELS", "x")
    assert read_settings(None).model == "pocket"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PORT", "eight"),
        ("PORT", "0"),
        ("MAX_SLOTS", "0"),
        ("MAX_SEQ_LEN", "12"),
        ("DEVICE", "gpu"),
        ("MIXED_PRECISION", "int4"),
        ("QUANTIZATION", "int3"),
        ("LOG_LEVEL", "loud"),
        ("ENABLE_TORCH_COMPILE", "perhaps"),
        ("NUM_STREAMS", "3"),
        ("CACHE_LIMIT", "-1"),
        ("MODEL", ""),
    ],
)
def test_malformed_value_stops_and_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
):
    monkeypatch.setenv(key, value)
    with pytest.raises(SettingsError) as refused:
        read_settings(None)
    assert f"{key}={value!r}" in str(refused.value)


def test_two_malformed_values_are_both_named(tmp_path: Path):
    with pytest.raises(SettingsError) as refused:
        read_settings(env_file(tmp_path, "PORT=x\nMAX_QUEUE=y"))
    assert "PORT='x'" in str(refused.value)
    assert "MAX_QUEUE='y'" in str(refused.value)


def test_origins_are_split_at_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CORS_ORIGINS", "http://a.example , http://b.example,")
    assert read_settings(None).cors_origins == ("http://a.example", "http://b.example")


def test_token_is_not_shown():
    settings = Settings(hf_token=SecretStr("hf_secret"))
    assert "hf_secret" not in repr(settings)
    assert "hf_secret" not in str(settings.model_dump())


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_every_setting_is_documented():
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undocumented == []
