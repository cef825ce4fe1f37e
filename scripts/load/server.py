"""A server for one measurement, on a free port, with an empty data folder."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.local_http import fetch
from scripts.processes import Child, free_port, stop_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 600.0
HTTP_OK = 200


class ServerFailedError(Exception):
    """The server did not come up; the message ends with what it said last."""


@contextmanager
def own_server(
    settings: Mapping[str, str],
    module: str = "backend.app",
    keep_log: Path | None = None,
    start_limit_s: float = START_LIMIT_S,
) -> Iterator[str]:
    """Start a server, give its address once it can speak, and stop it at the end.

    Args:
        settings: Environment variables that win over this process's own.
        module: What is started; ``backend.cluster`` for several copies of the engine.
        keep_log: Where its log goes; None throws it away.
        start_limit_s: After which a server that is not ready has failed.

    Raises:
        ServerFailedError: It stopped or was not ready in time.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="load-test-") as folder:
        env = {**os.environ, "DATA_DIR": folder, **settings, "PORT": str(port)}
        env["HOST"] = "127.0.0.1"
        log = keep_log or Path(folder) / "server.log"
        child = Child("server", [sys.executable, "-m", module], env, ROOT, log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(child, url, start_limit_s)
            yield url
        finally:
            stop_all([child])


def _wait_until_ready(child: Child, url: str, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while fetch(f"{url}/health/ready", timeout_s=5)[0] != HTTP_OK:
        if child.exit_code() is not None:
            raise ServerFailedError(child.obituary())
        if time.monotonic() > deadline:
            raise ServerFailedError(
                f"the server was not ready after {limit_s:g} s. Its last lines:\n"
                f"{child.last_lines()}"
            )
        time.sleep(0.2)
