"""One version, told in three places."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from backend import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_project_file_has_the_packages_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


def test_the_changelog_begins_with_the_packages_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[(.+?)\] - (\S+)$", changelog, re.MULTILINE)
    assert entries[0][0] == __version__
    for _, date in entries[1:]:
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
