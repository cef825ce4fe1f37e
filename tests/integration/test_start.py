"""``python -m backend.app`` as a process of its own: what it refuses, and how."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.app import EXIT_MISCONFIGURED, create_app
from backend.core.errors import CheckpointError
from tests.conftest import MakeSettings

ROOT = Path(__file__).resolve().parents[2]


def run_app(directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the app in an empty directory with only these settings in its environment."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    if sys.platform == "win32":
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return subprocess.run(
        [sys.executable, "-m", "backend.app"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"QUANTISATION": "int8"}, "did you mean QUANTIZATION?"),
        ({"PORT": "eighty"}, "PORT='eighty'"),
        ({"MODEL": "no/such/model"}, "no such directory"),
        ({"MODEL": "openaudio-s1-mini"}, "python scripts/download_model.py"),
    ],
)
def test_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, settings: dict[str, str], message: str
):
    ended = run_app(tmp_path, **settings)
    assert ended.returncode == EXIT_MISCONFIGURED
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cannot start: ")
    assert message in lines[0]


def test_unknown_key_in_the_file_stops_the_start(tmp_path: Path):
    (tmp_path / ".env").write_text("MAX_SLOT=3\n", encoding="utf-8")
    ended = run_app(tmp_path)
    assert ended.returncode == EXIT_MISCONFIGURED
    assert "unknown setting MAX_SLOT in .env; did you mean MAX_SLOTS?" in ended.stderr


def test_model_that_cannot_be_loaded_stops_the_process(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = run_app(tmp_path, MODEL=str(tmp_path), PORT=str(port))
    assert ended.returncode == EXIT_MISCONFIGURED
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("cannot start: ")
    assert "tokenizer.tiktoken" in last


def test_app_of_a_missing_model_is_not_made(make_settings: MakeSettings):
    with pytest.raises(CheckpointError):
        create_app(make_settings(model="no/such/model"))
