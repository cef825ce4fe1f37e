from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.settings import FOREIGN_KEYS
from ui.settings import ENV_PREFIX, UiSettings, UiSettingsError, read_ui_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UiSettings.model_fields:
        monkeypatch.delenv(ENV_PREFIX + name.upper(), raising=False)


def test_the_defaults_serve_this_machine_only():
    settings = read_ui_settings(None)
    assert settings.backend_url == "http://127.0.0.1:8000"
    assert settings.host == "127.0.0.1"
    assert (settings.gradio_port, settings.streamlit_port) == (7860, 8501)


def test_keys_of_the_backend_in_the_same_file_are_left_alone(tmp_path: Path):
    env_file = tmp_path / ".env"
    env_file.write_text("MODEL=pocket\nUI_GRADIO_PORT=7000\nPORT=9000\n", encoding="utf-8")
    assert read_ui_settings(env_file).gradio_port == 7000


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    env_file = tmp_path / ".env"
    env_file.write_text("UI_HOST=10.0.0.1\n", encoding="utf-8")
    monkeypatch.setenv("UI_HOST", "0.0.0.0")
    assert read_ui_settings(env_file).host == "0.0.0.0"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path):
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"\xef\xbb\xbfUI_GRADIO_PORT=7001\r\n")
    assert read_ui_settings(env_file).gradio_port == 7001


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("UI_GRADIO_PORT", "many"),
        ("UI_STREAMLIT_PORT", "70000"),
        ("UI_TIMEOUT_S", "0"),
        ("UI_BACKEND_URL", "127.0.0.1:8000"),
        ("UI_HOST", ""),
    ],
)
def test_a_malformed_value_is_one_line_with_its_name_and_value(
    key: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(key, value)
    with pytest.raises(UiSettingsError) as caught:
        read_ui_settings(None)
    message = str(caught.value)
    assert f"{key}={value!r}" in message
    assert "\n" not in message


def test_an_unknown_key_of_the_pages_is_refused_by_name(tmp_path: Path):
    env_file = tmp_path / ".env"
    env_file.write_text("UI_GRADIO_PROT=7000\n", encoding="utf-8")
    with pytest.raises(UiSettingsError, match="UI_GRADIO_PROT"):
        read_ui_settings(env_file)


def test_a_slash_at_the_end_of_the_address_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UI_BACKEND_URL", "https://speech.example/")
    assert read_ui_settings(None).backend_url == "https://speech.example"


def test_the_api_key_is_not_shown_where_settings_are(monkeypatch: pytest.MonkeyPatch):
    assert read_ui_settings(None).api_key_text == ""
    monkeypatch.setenv("UI_API_KEY", "a-secret-key")
    settings = read_ui_settings(None)
    assert settings.api_key_text == "a-secret-key"
    assert "a-secret-key" not in repr(settings)


def test_the_backend_knows_which_keys_are_the_pages():
    assert {ENV_PREFIX + name.upper() for name in UiSettings.model_fields} == FOREIGN_KEYS


def test_every_setting_is_documented():
    assert all(field.description for field in UiSettings.model_fields.values())
