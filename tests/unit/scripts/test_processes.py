from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.core.errors import ConfigurationError
from scripts.processes import Child, free_port, is_port_free, require_port, stop_all

if TYPE_CHECKING:
    from collections.abc import Iterator

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

SAY_UP = "open('up', 'w').write('up');"
"""``up`` is a pipe in the child's folder, so reading it waits for the child."""
OBEDIENT = SAY_UP + "import time; time.sleep(60)"
STUBBORN = (
    f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);{SAY_UP} time.sleep(60)"
)
HOLDING = "alive = open('up', 'w'); alive.write('up'); alive.flush(); import time; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDING!r}])"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    stop_all(children, seconds=0.0)


@pytest.fixture
def up(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "up")
    return tmp_path / "up"


def start(children: list[Child], tmp_path: Path, code: str, name: str = "backend") -> Child:
    child = Child(
        name, [sys.executable, "-c", code], os.environ, tmp_path, tmp_path / "logs" / f"{name}.log"
    )
    children.append(child)
    return child


@posix_only
def test_a_child_that_obeys_is_stopped_at_once(
    started: list[Child], tmp_path: Path, up: Path
) -> None:
    child = start(started, tmp_path, OBEDIENT)
    assert up.read_text(encoding="utf-8") == "up"
    begun = time.monotonic()
    stop_all([child], seconds=30.0)

    assert time.monotonic() - begun < 15.0
    assert child.exit_code() == -signal.SIGTERM


@posix_only
def test_a_child_that_does_not_obey_is_ended_by_force(
    started: list[Child], tmp_path: Path, up: Path
) -> None:
    child = start(started, tmp_path, STUBBORN)
    assert up.read_text(encoding="utf-8") == "up"
    stop_all([child], seconds=0.1)
    assert child.exit_code() == -signal.SIGKILL


@posix_only
def test_a_childs_own_children_are_ended_with_it(
    started: list[Child], tmp_path: Path, up: Path
) -> None:
    child = start(started, tmp_path, PARENT)
    with up.open(encoding="utf-8") as held_by_grandchild:
        assert held_by_grandchild.read(2) == "up"
        stop_all([child], seconds=5.0)
        # The pipe ends when nobody holds it any more; until then this would wait.
        assert held_by_grandchild.read() == ""


@posix_only
def test_a_child_does_not_get_the_consoles_ctrl_c(started: list[Child], tmp_path: Path) -> None:
    child = start(started, tmp_path, OBEDIENT)
    assert os.getpgid(child.pid) != os.getpgid(0)


def test_stopping_twice_and_stopping_a_dead_child_are_harmless(
    started: list[Child], tmp_path: Path
) -> None:
    child = start(started, tmp_path, "raise SystemExit(3)")
    child.wait_stopped(30.0)
    stop_all([child], seconds=1.0)
    stop_all([child], seconds=1.0)
    assert child.exit_code() == 3


def test_the_obituary_tells_the_exit_code_and_the_last_lines(
    started: list[Child], tmp_path: Path
) -> None:
    code = "for i in range(40): print('line', i)\nraise SystemExit(7)"
    child = start(started, tmp_path, code, name="gradio page")
    child.wait_stopped(30.0)

    text = child.obituary()
    assert "the gradio page stopped by itself with exit code 7" in text
    assert "line 39" in text
    assert "line 24\n" not in text, "only the last 15 lines"
    assert str(child.log) in text


def test_children_are_stopped_last_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Recorded(Child):
        def __init__(self, name: str) -> None:
            self.name = name

        def ask_to_stop(self) -> None:
            order.append(f"ask {self.name}")

        def wait_stopped(self, seconds: float) -> None:
            order.append(f"wait {self.name}")

    stop_all([Recorded("backend"), Recorded("page")])
    assert order == ["ask page", "ask backend", "wait page", "wait backend"]


def test_a_taken_port_is_refused_with_its_number_and_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_port_free("127.0.0.1", port)
        with pytest.raises(ConfigurationError, match=rf"port {port} on 127.0.0.1 is taken.*--port"):
            require_port("127.0.0.1", port, "--port")


def test_a_free_port_is_accepted() -> None:
    port = free_port()
    assert is_port_free("127.0.0.1", port)
    require_port("127.0.0.1", port, "--port")


def test_an_address_that_is_not_ours_is_explained() -> None:
    with pytest.raises(ConfigurationError, match=r"no address of this machine.*127\.0\.0\.1"):
        is_port_free("not an address", 8000)
