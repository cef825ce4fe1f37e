"""Make the environment, start the backend and a page, and stop both with Ctrl-C.

    python scripts/start.py                          the service and the Gradio page
    python scripts/start.py --say "Hello." --out hello.wav
    python scripts/start.py --cluster                on every GPU of this machine (needs Ray)

Only the standard library is used here; what needs more runs in the environment's own Python.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import ConfigurationError, TTSError
from scripts.environment import CLUSTER_VENV, ROOT, ensure_environment
from scripts.local_http import fetch
from scripts.processes import Child, free_port, require_port, stop_all
from scripts.say import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOGS = ROOT / "data" / "logs"
STOP_S = 45.0
"""Longer than SHUTDOWN_GRACE_S gives to speech under way, unless that was raised."""
POLL_S = 0.2
LOAD_LIMIT_S = 900.0
"""A large model from a slow disk takes minutes; longer than this means that something hangs."""
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Start the speech server and a web page.")
    add = parser.add_argument
    add("--ui", choices=("gradio", "streamlit", "none"), default="gradio", help="which page")
    add("--model", help="pocket, openaudio-s1-mini or the path of a model directory")
    add("--host", help="address of the backend; 0.0.0.0 serves the network")
    add("--port", type=int, help="port of the backend")
    add("--ui-port", type=int, help="port of the page")
    add("--say", metavar="TEXT", help="speak one text into a file, then stop")
    add("--out", type=Path, help="the WAV file for --say (default: hello.wav)")
    add("--voice", help="voice for --say; GET /voices lists them")
    add(
        "--cluster",
        nargs="?",
        const=0,
        type=int,
        metavar="N",
        help="run N copies of the engine with Ray Serve (default: one for each GPU)",
    )
    add("--no-install", action="store_true", help="use this Python as it is, without .venv")
    options = parser.parse_args(arguments)
    if options.cluster is not None and options.cluster < 0:
        parser.error("--cluster takes the number of copies of the engine")
    if options.say is None and (options.out or options.voice):
        parser.error("--out and --voice go with --say")
    if options.say is not None and not options.say.strip():
        parser.error("--say needs some text")
    options.out = options.out or Path("hello.wav")
    return options


def child_environment(options: argparse.Namespace, outer: Mapping[str, str]) -> dict[str, str]:
    """Turn flags into settings; they win over ``.env``."""
    given = {"MODEL": options.model, "HOST": options.host, "PORT": options.port}
    if options.cluster:
        given["CLUSTER_REPLICAS"] = options.cluster
    if options.ui_port:
        given[f"UI_{options.ui.upper()}_PORT"] = options.ui_port
    if options.say is not None and options.port is None:
        given["HOST"] = options.host or "127.0.0.1"
        given["PORT"] = free_port(given["HOST"])
    return {**outer, **{name: str(value) for name, value in given.items() if value is not None}}


def read_addresses(python: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Ask the environment's Python for the settings in force.

    Raises:
        ConfigurationError: A setting is unknown or malformed.
    """
    asked = subprocess.run(
        [python, "-m", "scripts.show_addresses"],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env=dict(env),
        check=False,
    )
    if asked.returncode != 0:
        raise ConfigurationError(asked.stderr.strip())
    return json.loads(asked.stdout)


def url_of(host: str, port: int) -> str:
    """Give the address to type into a browser on this machine."""
    name = ANY_ADDRESS.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def page_command(python: Path, ui: str, host: str, port: int) -> list[str]:
    """Give the command that serves a page."""
    if ui == "gradio":
        return [str(python), "-m", "ui.gradio_app"]
    command = [str(python), "-m", "streamlit", "run", "ui/streamlit_app.py"]
    command += ["--server.address", host, "--server.port", str(port), "--server.headless", "true"]
    return [*command, "--browser.gatherUsageStats", "false"]


def failure_reason(body: bytes) -> str | None:
    """Read from the answer of ``/health/ready`` why the engine failed, or None if it did not."""
    try:
        health = json.loads(body)
    except ValueError:
        return None
    if isinstance(health, dict) and health.get("status") == "failed":
        return str(health.get("detail") or "no reason was given")
    return None


def wait_until_ready(
    child: Child,
    url: str,
    limit_s: float = LOAD_LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until ``url`` answers 200.

    Raises:
        ConfigurationError: The child ended or reported a failure, or the time is over.
    """
    deadline = clock() + limit_s
    while clock() < deadline:
        if child.exit_code() is not None:
            raise ConfigurationError(child.obituary())
        status, body = fetch(url, timeout_s=10.0)
        if status == 200:
            return
        reason = failure_reason(body)
        if reason is not None:
            raise ConfigurationError(f"the {child.name} cannot start: {reason}")
        sleep(POLL_S)
    raise ConfigurationError(
        f"the {child.name} was not ready after {limit_s:.0f} s. Its last lines:\n"
        f"{child.last_lines()}The whole log is {child.log}."
    )


def make_environment(options: argparse.Namespace) -> Path:
    """Make the environment that the options need; give its Python."""
    if options.cluster is None:
        return ensure_environment(ROOT / "requirements.txt")
    # Ray brings forty packages and limits on others: it stays out of the environment of all.
    return ensure_environment(ROOT / "requirements-cluster.txt", CLUSTER_VENV)


def run(options: argparse.Namespace, children: list[Child], signals: StopSignals) -> None:
    """Start what was asked for and stay until it ends. ``children`` collects what to stop."""
    ui = "none" if options.say is not None else options.ui
    venv_python = Path(sys.executable) if options.no_install else make_environment(options)
    env = child_environment(options, os.environ)
    at = read_addresses(venv_python, env)
    require_port(at["host"], at["port"], "--port")
    page_port = at.get(f"{ui}_port", 0)
    if ui != "none":
        require_port(at["ui_host"], page_port, "--ui-port")

    backend_url = url_of(at["host"], at["port"])
    print(f"Starting the backend with the model {at['model']} ...", flush=True)
    module = "backend.app" if options.cluster is None else "backend.cluster"
    command = [str(venv_python), "-m", module]
    # A log of its own: speaking one text must not overwrite the log of a server that runs.
    log = LOGS / ("backend.log" if options.say is None else "say.log")
    with signals.held():
        children.append(Child("backend", command, env, ROOT, log))
    wait_until_ready(children[-1], f"{backend_url}/health/ready")
    if options.say is not None:
        print(say(backend_url, options.say, options.voice, options.out), flush=True)
        return
    if ui != "none":
        command = page_command(venv_python, ui, at["ui_host"], page_port)
        page_env = {**env, "UI_BACKEND_URL": backend_url}
        with signals.held():
            children.append(Child(f"{ui} page", command, page_env, ROOT, LOGS / f"{ui}.log"))
        wait_until_ready(children[-1], url_of(at["ui_host"], page_port), limit_s=120.0)
        print(f"\n  Page     {url_of(at['ui_host'], page_port)}")
    print(f"  Backend  {backend_url}  (its API: {backend_url}/docs)")
    print(f"  Logs     {LOGS}\n\nCtrl-C stops everything.", flush=True)
    watch(children)


def watch(children: list[Child], sleep: Callable[[float], None] = time.sleep) -> NoReturn:
    """Wait until a child ends.

    Raises:
        ConfigurationError: Always, when one has ended.
    """
    while all(child.exit_code() is None for child in children):
        sleep(POLL_S)
    raise ConfigurationError(
        next(child for child in children if child.exit_code() is not None).obituary()
    )


class StopSignals:
    """Turns every signal that means "stop" into one ``KeyboardInterrupt``.

    A signal that comes while a child is being started waits until the child is on the list of what
    to stop: otherwise the child would stay behind.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._has_come = False

    def listen(self) -> None:
        """Take over the signals; main thread only."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # each system knows some of them
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.receive)

    def ignore(self) -> None:
        """Let further signals change nothing: it is stopping already."""
        self._is_held = True

    def receive(self, number: int, frame: object) -> None:
        """Stop now, or as soon as nothing holds the signals."""
        self._has_come = True
        if not self._is_held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block has ended.

        Raises:
            KeyboardInterrupt: At the end, when one has come.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._has_come:
            raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    options = parse_arguments(arguments)
    signals = StopSignals()
    signals.listen()
    children: list[Child] = []
    try:
        run(options, children, signals)
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
    except (TTSError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        # A second Ctrl-C must not leave children behind.
        signals.ignore()
        stop_all(children, STOP_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
