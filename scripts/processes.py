"""Child processes that are started, watched and stopped together, and the ports they listen on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import deque
from typing import TYPE_CHECKING

from backend.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IS_WINDOWS = os.name == "nt"


class Child:
    """One child process with all its own children, writing to a log file.

    It gets a process group of its own, so a Ctrl-C in the console reaches only the parent, which
    then stops its children in order.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**env, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                start_new_session=not IS_WINDOWS,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Give the exit code, or None while it runs."""
        return self._process.poll()

    def last_lines(self, count: int = 15) -> str:
        """Give the end of the log, indented."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            lines = deque(file, maxlen=count)
        return "".join(f"    {line.rstrip()}\n" for line in lines)

    def obituary(self) -> str:
        """Say that it ended by itself, and what it said last."""
        return (
            f"the {self.name} stopped by itself with exit code {self.exit_code()}. Its last lines:"
            f"\n{self.last_lines()}The whole log is {self.log}."
        )

    def ask_to_stop(self) -> None:
        """Ask it to finish; returns at once."""
        if self.exit_code() is None:
            self._signal("CTRL_BREAK_EVENT" if IS_WINDOWS else "SIGTERM")

    def wait_stopped(self, seconds: float) -> None:
        """Wait, then end by force what is left of it, its own children included."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(seconds, 0.0))
        if IS_WINDOWS:
            self._process.kill()
        else:
            self._signal("SIGKILL")
        self._process.wait()

    def _signal(self, name: str) -> None:
        number = getattr(signal, name)  # by name: each exists on one kind of system only
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if IS_WINDOWS:
                self._process.send_signal(number)
            else:
                os.killpg(self._process.pid, number)


def stop_all(children: Sequence[Child], seconds: float = 10.0) -> None:
    """Stop the children, the last started first; by force after ``seconds`` all together."""
    deadline = time.monotonic() + seconds
    for child in reversed(children):
        child.ask_to_stop()
    for child in reversed(children):
        child.wait_stopped(deadline - time.monotonic())


def is_port_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there.

    Raises:
        ConfigurationError: This machine has no such address.
    """
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: on POSIX a port that was used a moment ago is free, on Windows the same
        # option would also take a port that is in use.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", None) or socket.SO_REUSEADDR
        probe.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
        return True


def require_port(host: str, port: int, flag: str) -> None:
    """Refuse a port that is taken.

    Raises:
        ConfigurationError: Something listens there; the message names port and flag.
    """
    if not is_port_free(host, port):
        raise ConfigurationError(
            f"port {port} on {host} is taken, perhaps by a server that was started earlier: stop "
            f"it, or choose another port with {flag} {port + 1}"
        )


def free_port(host: str = "127.0.0.1") -> int:
    """Give a port that nothing uses at this moment."""
    family, address = _resolve(host, 0)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(
            f"{host} is no address of this machine ({error}): use 127.0.0.1 for this machine "
            "alone or 0.0.0.0 for the network"
        ) from error
    return found[0][0], found[0][4]
