"""Parts of the pocket voice's making as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def start_part(module: str, *options: str) -> subprocess.Popen[bytes]:
    """Start ``scripts.pocket.<module>`` beside this process, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"scripts.pocket.{module}", *options],
        env=environment,
        start_new_session=True,
    )


def finish_part(process: subprocess.Popen[bytes]) -> None:
    """Wait for a part.

    Raises:
        SystemExit: it failed.
    """
    if process.wait() != 0:
        raise SystemExit(f"{process.args} failed with exit code {process.returncode}")


def stop_part(process: subprocess.Popen[bytes]) -> None:
    """End a part that still runs, its own processes included."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
