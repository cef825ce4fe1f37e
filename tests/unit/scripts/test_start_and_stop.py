"""``scripts/start.py`` as a whole, with small programs in the places of backend and page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.processes import free_port, is_port_free

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

ROOT = Path(__file__).resolve().parents[3]

SERVER = """
import os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/die":
            print("dying as ordered", flush=True)
            os._exit(5)

def finish(number, frame):
    pathlib.Path(name + ".stopped").write_text("cleanly")
    sys.exit(0)

name = NAME
signal.signal(signal.SIGTERM, finish)
pathlib.Path(name + ".environment").write_text(
    repr({k: v for k, v in os.environ.items() if k in ("PORT", "MODEL", "UI_BACKEND_URL")})
)
HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""

START = """
import sys
from pathlib import Path
from scripts import start
start.ROOT = Path(sys.argv[1])
start.LOGS = start.ROOT / "logs"
sys.exit(start.main(["--no-install", "--model", "m", *sys.argv[2:]]))
"""


class Started:
    """A running ``start.py`` in a folder with stand-ins."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.port, self.page_port = free_port(), free_port()
        addresses = {
            "model": "m",
            "host": "127.0.0.1",
            "port": self.port,
            "ui_host": "127.0.0.1",
            "gradio_port": self.page_port,
        }
        self._write("scripts/show_addresses.py", f"print({json.dumps(addresses)!r})")
        self._write("backend/app.py", f"NAME, PORT = 'backend', {self.port}" + SERVER)
        self._write("ui/gradio_app.py", f"NAME, PORT = 'page', {self.page_port}" + SERVER)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(folder), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.said = ""

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"it ended without saying {text!r}:\n{self.said}")

    def wait(self) -> int:
        rest, _ = self.process.communicate(timeout=60)
        self.said += rest
        return self.process.returncode

    def stopped_cleanly(self, name: str) -> bool:
        return (self.folder / f"{name}.stopped").exists()


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Started]:
    run = Started(tmp_path, *getattr(request, "param", ()))
    yield run
    if run.process.poll() is None:
        run.process.kill()
        run.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_both_are_started_and_stopped_cleanly(started: Started, number: int) -> None:
    started.wait_for("Ctrl-C stops everything")
    assert f"Backend  http://127.0.0.1:{started.port}" in started.said
    assert f"Page     http://127.0.0.1:{started.page_port}" in started.said
    started.process.send_signal(number)

    assert started.wait() == 0
    assert started.stopped_cleanly("backend")
    assert started.stopped_cleanly("page")
    assert is_port_free("127.0.0.1", started.port)
    assert is_port_free("127.0.0.1", started.page_port)


def test_flags_and_addresses_reach_the_programs(started: Started) -> None:
    started.wait_for("Ctrl-C stops everything")
    started.process.terminate()
    started.wait()
    assert "'MODEL': 'm'" in (started.folder / "backend.environment").read_text(encoding="utf-8")
    page = (started.folder / "page.environment").read_text(encoding="utf-8")
    assert f"'UI_BACKEND_URL': 'http://127.0.0.1:{started.port}'" in page


@pytest.mark.parametrize("started", [("--ui", "none")], indirect=True)
def test_the_page_can_be_left_out(started: Started) -> None:
    started.wait_for("Ctrl-C stops everything")
    assert "Page" not in started.said
    assert is_port_free("127.0.0.1", started.page_port)
    started.process.terminate()
    assert started.wait() == 0
    assert started.stopped_cleanly("backend")


@pytest.mark.parametrize(("dies", "stays"), [("backend", "page"), ("page", "backend")])
def test_when_one_dies_the_other_is_stopped_and_the_reason_told(
    started: Started, dies: str, stays: str
) -> None:
    from scripts.local_http import fetch

    started.wait_for("Ctrl-C stops everything")
    port = started.port if dies == "backend" else started.page_port
    fetch(f"http://127.0.0.1:{port}/die", timeout_s=10.0)

    assert started.wait() == 1
    assert f"{dies} stopped by itself with exit code 5" in started.said
    assert "dying as ordered" in started.said
    assert started.stopped_cleanly(stays)


def test_stopping_while_it_starts_leaves_nothing_behind(started: Started) -> None:
    started.wait_for("Starting the backend")
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == 0
    assert is_port_free("127.0.0.1", started.port)
