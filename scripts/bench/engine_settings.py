"""Settings for an engine that is measured, also where pydantic is not installed.

A bare machine may have torch and nothing of the web stack. The engine reads plain attributes, so
there the defaults are taken out of the text of ``backend/core/settings.py``.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from backend.core.settings import Settings

SETTINGS_FILE = Path(__file__).resolve().parents[2] / "backend" / "core" / "settings.py"


def engine_settings(**overrides: Any) -> Settings:
    """Defaults and ``overrides``; neither the environment nor ``.env`` counts.

    Raises:
        SettingsError: A value is out of range (only where pydantic is installed).
        ValueError: A name is no setting (only where it is not).
    """
    try:
        from backend.core.settings import Settings
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"pydantic", "pydantic_settings"}:
            raise
        print("pydantic-settings is not installed: values are not checked", file=sys.stderr)
        return cast("Settings", plain_settings(SETTINGS_FILE.read_text("utf-8"), overrides))
    from backend.core.errors import SettingsError

    known = {name: field.get_default() for name, field in Settings.model_fields.items()}
    try:
        # init values win over the environment, so every one is given
        return Settings(_env_file=None, **{**known, **overrides})  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise SettingsError(str(error)) from error


def plain_settings(source: str, overrides: dict[str, Any]) -> SimpleNamespace:
    """The defaults that the class ``Settings`` in ``source`` states, as plain attributes.

    Raises:
        ValueError: A name in ``overrides`` is no setting.
    """
    classes = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    values: dict[str, Any] = {}
    for node in classes[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            values[node.target.id] = _default(node.value)
    unknown = overrides.keys() - values.keys()
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown)).upper()}")
    return SimpleNamespace(**{**values, **overrides})


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called == "Path":
            return Path(ast.literal_eval(node.args[0]))
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        node = named.get("default")
    return None if node is None else ast.literal_eval(node)
