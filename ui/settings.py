"""Settings of the web pages, read from the environment and ``.env``.

The pages share ``.env`` with the backend, so keys that do not begin with ``UI_`` are the backend's
and left alone. The text under a field is its documentation.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "UI_"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UiSettingsError(Exception):
    """A setting of the pages is unknown or malformed; the message names it."""


class UiSettings(BaseSettings):
    """Where the pages listen and where their backend is."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        case_sensitive=False,
        use_attribute_docstrings=True,
    )

    backend_url: str = "http://127.0.0.1:8000"
    """Address of the backend, as this machine reaches it."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address the pages listen on. 127.0.0.1 serves this machine only; 0.0.0.0 the network."""

    gradio_port: int = Field(default=7860, ge=1, le=65535)
    """Port of the Gradio page."""

    streamlit_port: int = Field(default=8501, ge=1, le=65535)
    """Port of the Streamlit page."""

    timeout_s: float = Field(default=120.0, ge=1.0, le=3600.0)
    """Seconds the pages wait for the next piece of an answer before they give up."""

    api_key: SecretStr | None = None
    """API key that the pages send to the backend. Whoever reaches the pages then uses it; without
    it the pages ask each visitor, if the backend asks for one."""

    @property
    def api_key_text(self) -> str:
        """The API key itself; empty without one."""
        return "" if self.api_key is None else self.api_key.get_secret_value()

    @field_validator("backend_url")
    @classmethod
    def _is_http_address(cls, value: str) -> str:
        address = value.strip().rstrip("/")
        scheme, separator, rest = address.partition("://")
        if scheme not in {"http", "https"} or not separator or not rest:
            raise ValueError("must begin with http:// or https://, as in http://127.0.0.1:8000")
        return address


def read_ui_settings(env_file: Path | None = Path(".env")) -> UiSettings:
    """Read the settings; the environment wins over the file.

    Args:
        env_file: ``KEY=value`` lines; skipped when None or absent.

    Raises:
        UiSettingsError: A ``UI_`` key of the file is unknown, or a value is malformed.
    """
    present = env_file if env_file is not None and env_file.is_file() else None
    if present is not None:
        _refuse_unknown(present)
    try:
        return UiSettings(_env_file=present, _env_file_encoding="utf-8-sig")  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        raise UiSettingsError(_explain(error)) from error


def prepare_gradio() -> None:
    """Keep Gradio at home. Only works before ``import gradio``.

    It must not send usage statistics, and its look at its own page when it starts must not go
    through a proxy, which would not find it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        hosts += [host for host in LOOPBACK if host not in hosts]
        os.environ[name] = ",".join(hosts)


def _refuse_unknown(env_file: Path) -> None:
    known = {ENV_PREFIX + name.upper() for name in UiSettings.model_fields}
    for line in env_file.read_text(encoding="utf-8-sig").splitlines():
        key = line.strip().removeprefix("export ").partition("=")[0].strip().upper()
        if key.startswith(ENV_PREFIX) and key not in known:
            raise UiSettingsError(
                f"unknown setting {key} in {env_file}; the pages know {', '.join(sorted(known))}"
            )


def _explain(error: ValidationError) -> str:
    parts: list[str] = []
    for item in error.errors(include_url=False, include_context=False):
        name = str(item["loc"][0]).upper() if item["loc"] else "settings"
        key = name if name.startswith(ENV_PREFIX) else ENV_PREFIX + name
        parts.append(f"{key}={item['input']!r}: {item['msg'].removeprefix('Value error, ')}")
    return "malformed setting: " + "; ".join(parts)
