from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backend.core.errors import ConfigurationError
from scripts import start
from scripts.processes import Child, free_port
from scripts.start import (
    child_environment,
    failure_reason,
    page_command,
    parse_arguments,
    read_addresses,
    url_of,
    wait_until_ready,
    watch,
)

ROOT = Path(__file__).resolve().parents[3]


class FakeChild(Child):
    """A child process that only pretends; it ends after some questions."""

    def __init__(self, name: str = "backend", ends_after: int = 1_000_000) -> None:
        self.name, self.log = name, Path("backend.log")
        self._questions_left = ends_after

    def exit_code(self) -> int | None:
        self._questions_left -= 1
        return 9 if self._questions_left < 0 else None

    def last_lines(self, count: int = 15) -> str:
        return "    the last words\n"


class HealthServer:
    """Answers every GET with the next of some replies, the last one again and again."""

    def __init__(self, *replies: tuple[int, object]) -> None:
        left = list(replies)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/health/ready"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> HealthServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class ManualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def options(*arguments: str) -> argparse.Namespace:
    return parse_arguments(list(arguments))


def test_without_flags_the_gradio_page_is_served() -> None:
    given = options()
    assert (given.ui, given.say, given.no_install) == ("gradio", None, False)


@pytest.mark.parametrize(
    "arguments", [["--out", "x.wav"], ["--voice", "kit"], ["--say", "  "], ["--ui", "tk"]]
)
def test_flags_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(*arguments)


def test_flags_become_settings_that_win_over_the_environment() -> None:
    given = options("--model", "/m", "--host", "0.0.0.0", "--port", "81", "--ui-port", "82")
    env = child_environment(given, {"PORT": "1", "PATH": "/bin"})
    assert env == {
        "PATH": "/bin",
        "MODEL": "/m",
        "HOST": "0.0.0.0",
        "PORT": "81",
        "UI_GRADIO_PORT": "82",
    }


def test_a_cluster_has_as_many_copies_as_are_asked_for() -> None:
    asked = parse_arguments(["--cluster", "3"])
    assert child_environment(asked, {})["CLUSTER_REPLICAS"] == "3"
    by_gpus = parse_arguments(["--cluster"])
    assert by_gpus.cluster == 0
    assert "CLUSTER_REPLICAS" not in child_environment(by_gpus, {})
    assert parse_arguments([]).cluster is None


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], ("requirements.txt", ".venv")),
        (["--cluster"], ("requirements-cluster.txt", ".venv-cluster")),
    ],
)
def test_ray_gets_an_environment_of_its_own(
    arguments: list[str], environment: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []

    def make(requirements: Path, venv: Path = ROOT / ".venv") -> Path:
        assert requirements.is_file()
        made.append((requirements.name, venv.name))
        return Path(sys.executable)

    monkeypatch.setattr(start, "ensure_environment", make)
    start.make_environment(parse_arguments(arguments))
    assert made == [environment]


def test_flags_that_are_not_given_leave_the_settings_alone() -> None:
    assert child_environment(options(), {"PORT": "1"}) == {"PORT": "1"}


def test_the_page_port_goes_to_the_page_that_was_chosen() -> None:
    env = child_environment(options("--ui", "streamlit", "--ui-port", "82"), {})
    assert env == {"UI_STREAMLIT_PORT": "82"}


def test_say_takes_a_free_port_of_this_machine_unless_one_is_given() -> None:
    env = child_environment(options("--say", "Hi."), {})
    assert env["HOST"] == "127.0.0.1"
    assert int(env["PORT"]) > 0
    assert child_environment(options("--say", "Hi.", "--port", "81"), {}) == {"PORT": "81"}


def test_urls_can_be_opened_on_this_machine() -> None:
    assert url_of("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert url_of("0.0.0.0", 8000) == "http://127.0.0.1:8000"
    assert url_of("::", 8000) == "http://[::1]:8000"


def test_the_pages_are_started_as_their_programs_want_it() -> None:
    assert page_command(Path("py"), "gradio", "127.0.0.1", 7860) == ["py", "-m", "ui.gradio_app"]
    streamlit = page_command(Path("py"), "streamlit", "127.0.0.1", 8501)
    assert streamlit[:5] == ["py", "-m", "streamlit", "run", "ui/streamlit_app.py"]
    for flag, value in (
        ("--server.port", "8501"),
        ("--server.address", "127.0.0.1"),
        ("--server.headless", "true"),
        ("--browser.gatherUsageStats", "false"),
    ):
        assert streamlit[streamlit.index(flag) + 1] == value


def test_the_settings_in_force_are_read_by_the_environments_python() -> None:
    env = {**os.environ, "PORT": "8123", "UI_STREAMLIT_PORT": "8124"}
    at = read_addresses(Path(sys.executable), env)
    assert (at["port"], at["streamlit_port"]) == (8123, 8124)


def test_a_malformed_setting_stops_the_start_with_its_name() -> None:
    with pytest.raises(ConfigurationError, match="PORT='many'"):
        read_addresses(Path(sys.executable), {**os.environ, "PORT": "many"})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"status": "failed", "detail": "no weights"}', "no weights"),
        (b'{"status": "failed"}', "no reason was given"),
        (b'{"status": "starting", "detail": "loading"}', None),
        (b"<html>", None),
        (b"[]", None),
    ],
)
def test_the_reason_of_a_failure_is_found_in_the_health_answer(
    body: bytes, reason: str | None
) -> None:
    assert failure_reason(body) == reason


def test_it_waits_until_the_backend_is_ready(clock: ManualClock) -> None:
    starting = (503, {"status": "starting", "detail": ""})
    with HealthServer(starting, starting, (200, {"status": "ready"})) as server:
        wait_until_ready(FakeChild(), server.url, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(2 * start.POLL_S)


def test_an_engine_that_failed_ends_the_wait_with_its_reason(clock: ManualClock) -> None:
    failed = (503, {"status": "failed", "detail": "model.pth is missing"})
    with (
        HealthServer(failed) as server,
        pytest.raises(ConfigurationError, match=r"cannot start: model\.pth is missing"),
    ):
        wait_until_ready(FakeChild(), server.url, clock=clock, sleep=clock.sleep)


def test_a_backend_that_died_ends_the_wait_with_its_last_words(clock: ManualClock) -> None:
    url = f"http://127.0.0.1:{free_port()}/health/ready"
    with pytest.raises(ConfigurationError, match=r"(?s)exit code 9.*the last words"):
        wait_until_ready(FakeChild(ends_after=3), url, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(3 * start.POLL_S)


def test_the_wait_has_an_end(clock: ManualClock) -> None:
    url = f"http://127.0.0.1:{free_port()}/health/ready"
    with pytest.raises(ConfigurationError, match=r"(?s)not ready after 5 s.*the last words"):
        wait_until_ready(FakeChild(), url, limit_s=5.0, clock=clock, sleep=clock.sleep)


def test_one_dead_child_ends_the_watch_with_its_name(clock: ManualClock) -> None:
    children: list[Child] = [FakeChild(), FakeChild("gradio page", ends_after=4)]
    with pytest.raises(ConfigurationError, match="the gradio page stopped by itself"):
        watch(children, sleep=clock.sleep)
    assert clock.now == pytest.approx(4 * start.POLL_S)


@pytest.fixture
def no_signal_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start.signal, "signal", lambda number, handler: None)


@pytest.mark.usefixtures("no_signal_changes")
@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigurationError("the reason"), 1), (OSError("the reason"), 1), (KeyboardInterrupt(), 0)],
)
def test_whatever_ends_it_the_children_are_stopped(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    child, stopped = FakeChild(), []

    def run(options: argparse.Namespace, children: list[Child], signals: start.StopSignals) -> None:
        children.append(child)
        raise error

    monkeypatch.setattr(start, "run", run)
    monkeypatch.setattr(start, "stop_all", lambda children, seconds: stopped.extend(children))
    assert start.main(["--ui", "none"]) == code
    assert stopped == [child]
    assert ("error: the reason" in capsys.readouterr().err) is (code == 1)


def test_a_stop_while_a_child_is_being_started_waits_until_it_can_be_stopped() -> None:
    signals, children = start.StopSignals(), [FakeChild()]

    def start_the_page() -> None:
        with signals.held():
            signals.receive(2, None)
            children.append(FakeChild("page"))

    with pytest.raises(KeyboardInterrupt):
        start_the_page()
    assert [child.name for child in children] == ["backend", "page"]


def test_a_stop_at_any_other_time_takes_effect_at_once() -> None:
    signals = start.StopSignals()
    with signals.held():
        pass
    with pytest.raises(KeyboardInterrupt):
        signals.receive(2, None)


def test_a_second_stop_does_not_disturb_the_stopping() -> None:
    signals = start.StopSignals()
    signals.ignore()
    signals.receive(2, None)


def test_a_taken_port_is_reported_before_anything_starts() -> None:
    with HealthServer((200, {})) as server:
        port = server.url.split(":")[2].split("/")[0]
        command = [sys.executable, "scripts/start.py", "--no-install", "--port", port]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert "--port" in done.stderr


def test_the_readmes_command_speaks_a_sentence_into_a_file(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "fox.wav"
    command = [sys.executable, "scripts/start.py", "--no-install", "--model", "pocket"]
    command += ["--say", "The quick brown fox.", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{out}: " in done.stdout
    with wave.open(str(out)) as speech:
        assert 0.5 < speech.getnframes() / speech.getframerate() < 10.0
