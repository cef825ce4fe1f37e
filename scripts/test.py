"""Make the environment and run the tests.

    python scripts/test.py                     the fast tests
    python scripts/test.py --browser --wine    the suites that need more than Python
    python scripts/test.py --ray               the cluster, in an environment with Ray
    python scripts/test.py -k cache -x         anything else goes to pytest
    python scripts/test.py -n 0                the fast tests, one after the other

The fast tests are shared by several processes. The other suites, single files, and runs that a
person watches (``--pdb``, ``-s``) have one. The exit code is pytest's.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import ConfigurationError
from scripts.environment import CLUSTER_VENV, ROOT, VENV, ensure_environment

SUITES = {
    "browser": "the pages in Chromium",
    "gpu": "on a CUDA device",
    "load": "many clients at once",
    "ray": "copies of the engine on Ray Serve",
    "reference": "against the official package",
    "slow": "minutes on two cores",
    "wine": "the Windows launchers under wine",
}
"""The markers of pyproject.toml that the plain run leaves out."""

MAX_WORKERS = 4
"""Each takes up to 2 GB: it has the pages, torch and a voice open."""
IN_ONE_PROCESS = ("-m", "-s", "--capture=no", "--log-cli", "--pdb", "--trace", "--setup-")
"""pytest's arguments, by their beginnings, that choose other suites or want to be watched."""


def worker_arguments(arguments: list[str]) -> list[str]:
    """Give what has pytest share the fast tests out to processes.

    Each takes a stretch of neighbouring files, so that what a file has made is made once, and the
    first to be done takes over from the others.

    Args:
        arguments: The others that pytest gets. A ``-n`` among them wins.
    """
    num_cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    watched = any(given.startswith(IN_ONE_PROCESS) for given in arguments)
    is_off = any("no:xdist" in given for given in arguments)
    if watched or is_off or any(map(_names_a_file, arguments)) or num_cores == 1:
        return []
    return ["-n", str(min(num_cores, MAX_WORKERS)), "--dist", "worksteal"]


def _names_a_file(argument: str) -> bool:
    """Also a folder that is not there, of which pytest says so only in one process."""
    path = argument.partition("::")[0]
    is_path = path.endswith(".py") or ("/" in path and not path.startswith("-"))
    return is_path and not (ROOT / path).is_dir()


def pytest_arguments(arguments: list[str]) -> tuple[list[str], bool]:
    """Turn this command's arguments into pytest's.

    Returns:
        The arguments, and whether the environment is to be made first.
    """
    parser = argparse.ArgumentParser(description="Run the tests; other arguments go to pytest.")
    for marker, meaning in SUITES.items():
        parser.add_argument(f"--{marker}", action="store_true", help=f"only these: {meaning}")
    parser.add_argument("--all", action="store_true", help="every test, whatever it needs")
    parser.add_argument("--no-install", action="store_true", help="use this Python as it is")
    options, rest = parser.parse_known_args(arguments)
    install = not options.no_install
    chosen = [marker for marker in SUITES if getattr(options, marker)]
    if chosen or options.all:
        return ["-m", "" if options.all else " or ".join(chosen), *rest], install
    can_share = install or importlib.util.find_spec("xdist") is not None
    return [*(worker_arguments(rest) if can_share else []), *rest], install


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    forwarded, install = pytest_arguments(arguments)
    python, venv = Path(sys.executable), CLUSTER_VENV if "--ray" in arguments else VENV
    try:
        if install:
            python = ensure_environment(ROOT / "requirements-dev.txt", venv)
        if install and venv == CLUSTER_VENV:
            python = ensure_environment(ROOT / "requirements-cluster.txt", venv)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return subprocess.run([python, "-m", "pytest", *forwarded], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
