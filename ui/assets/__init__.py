"""Styles, templates and scripts of the pages, as files."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
ICON = _FOLDER / "icon.svg"


def asset(name: str) -> str:
    """Read a file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")
