"""The engine in a process of its own, over the pipes of its standard input and output.

A plain child process, the same on every system: nothing is forked, and the parent's main module is
not imported again (``python -m backend.app`` would bring the whole API into the engine's process).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from backend.worker.framing import Outbox, read_message
from backend.worker.protocol import Ended, Stop

if TYPE_CHECKING:
    from backend.worker.protocol import Command, Deliver, EngineSource

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
"""A step takes far less, a prefill on a slow CPU a few seconds."""
_EXIT_GRACE_S = 5.0
"""A process whose pipe is closed is ending; this long it may take to."""

_PIPE_BYTES = 1 << 20
"""Where the system lets one choose: first sounds of 64 listeners are 0.5 MB and must not wait for a
reader that is busy."""

_ROOT = Path(__file__).resolve().parents[2]
_BOOT = (
    f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from backend.worker.child import main; main()"
)
_LARGEST_PLAIN_CODE = 255


def widen(pipe: int) -> None:
    """Ask for a pipe of ``_PIPE_BYTES``; it stays as it is where the system has no such wish.

    Linux refuses an ordinary user beyond ``pipe-max-size`` and ``pipe-user-pages-soft``: a smaller
    pipe is slower under load and nothing else.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    command = getattr(fcntl, "F_SETPIPE_SZ", None)
    if command is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, command, _PIPE_BYTES)


class ProcessTransport:
    """Fulfills ``Transport``.

    Args:
        source: Makes the engine; pickled.
        deliver: Gets the events, on a thread of this transport.
        stop_timeout_s: An engine that was asked to end and has not after this long is killed.
    """

    can_restart = True

    def __init__(
        self, source: EngineSource, deliver: Deliver, stop_timeout_s: float = STOP_TIMEOUT_S
    ) -> None:
        self._deliver = deliver
        self._stop_timeout_s = stop_timeout_s
        self._outbox = Outbox("engine-outbox")
        self._outbox.put(source)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        self._thread = threading.Thread(target=self._run, name="engine-inbox", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process, while it lives."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def start(self) -> None:
        """Begin to start the process; returns at once."""
        self._thread.start()

    def send(self, command: Command) -> None:
        """Hand a command over."""
        self._outbox.put(command)

    def kill(self) -> None:
        """End the process without asking."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()

    async def close(self) -> None:
        """Ask it to end; kill it when it does not."""
        self._outbox.put(Stop())
        await asyncio.to_thread(self._thread.join, self._stop_timeout_s)
        if self._thread.is_alive():
            logger.warning("the engine did not stop in %.0f s; it is killed", self._stop_timeout_s)
            self.kill()
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            process = self._spawn()
        except OSError as error:
            self._deliver((Ended(f"the engine's process cannot be started: {error}"),))
            return
        commands, events = process.stdin, process.stdout
        assert isinstance(commands, io.BufferedWriter)
        assert isinstance(events, io.BufferedReader)
        self._outbox.open(commands)
        try:
            while True:
                self._deliver(read_message(events))
        except EOFError:
            pass
        except Exception:
            logger.exception("the engine's process says something unreadable; it is killed")
            process.kill()
        code = self._wait(process)
        self._outbox.close()
        with contextlib.suppress(OSError):  # what was not read any more is lost
            commands.close()
        events.close()
        self._deliver((Ended(f"the engine's process {_obituary(code)}"),))

    def _spawn(self) -> subprocess.Popen[bytes]:
        # on this thread, which lives as long as the process: Linux ends a child with the *thread*
        # that made it
        with self._lock:
            self._process = process = subprocess.Popen(  # noqa: S603 - this Python, this program
                [sys.executable, "-c", _BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    widen(pipe.fileno())
            if self._is_killed:
                process.kill()
        return process

    @staticmethod
    def _wait(process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _obituary(code: int) -> str:
    if code >= 0:
        return f"ended with code {code if code <= _LARGEST_PLAIN_CODE else hex(code)}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
