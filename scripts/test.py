"""Make the environment and run the tests.

    python scripts/test.py                     the fast tests
    python scripts/test.py --browser --wine    the suites that need more than Python
    python scripts/test.py --ray               the cluster, in an environment with Ray
    python scripts/test.py -k cache -x         anything else goes to pytest

The exit code is pytest's.
"""

from __future__ import annotations

import argparse
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
    chosen = [marker for marker in SUITES if getattr(options, marker)]
    if options.all:
        return ["-m", "", *rest], not options.no_install
    return (["-m", " or ".join(chosen)] if chosen else []) + rest, not options.no_install


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
