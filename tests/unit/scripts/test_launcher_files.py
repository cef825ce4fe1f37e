"""What can be checked of the Windows launchers without Windows; tests/wine executes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LAUNCHERS = sorted([*ROOT.glob("*.bat"), *(ROOT / "scripts").glob("*.bat")])


def test_the_three_launchers_are_there() -> None:
    names = {path.name for path in LAUNCHERS}
    assert {"start_backend.bat", "start_gradio.bat", "start_streamlit.bat"} <= names


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_lines_end_as_windows_wants_them_and_are_ascii(path: Path) -> None:
    content = path.read_bytes()
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")
    content.decode("ascii")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_branching_uses_nothing_that_differs_between_shells(path: Path) -> None:
    lines = [line for line in path.read_text("ascii").splitlines() if not line.startswith("rem ")]
    assert not [line for line in lines if "&&" in line or "||" in line]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_every_jump_has_a_target(path: Path) -> None:
    text = path.read_text("ascii")
    labels = set(re.findall(r"^:(\w+)", text, re.MULTILINE))
    assert set(re.findall(r"\bgoto (\w+)", text)) <= labels


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_every_file_it_calls_exists(path: Path) -> None:
    called = re.findall(r"(scripts\\\w+\.(?:py|bat))", path.read_text("ascii"))
    assert [name for name in called if not (ROOT / name.replace("\\", "/")).is_file()] == []
