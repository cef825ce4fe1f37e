"""The developer's commands; each prints what it runs.

python -m scripts.dev check      lint, format, types, layering, fast tests
python -m scripts.dev check --no-tests
python -m scripts.dev fix        mend what lint and format can mend

All of them run in the project's environment and make it when it is missing.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import ConfigurationError
from scripts.environment import ROOT, ensure_environment
from scripts.test import worker_arguments

LINT = ("ruff", "check")
FORMAT = ("ruff", "format")
CHECKS: dict[str, tuple[str, ...]] = {
    "lint": (*LINT, "."),
    "format": (*FORMAT, "--check", "."),
    "types": ("pyright",),
    "layering": ("pytest", "-q", "tests/unit/test_layering.py"),
}
TESTS: dict[str, tuple[str, ...]] = {"tests": ("pytest", "-q", *worker_arguments([]))}
FIXES: dict[str, tuple[str, ...]] = {"lint": (*LINT, "--fix", "."), "format": (*FORMAT, ".")}


def run_steps(python: Path, steps: dict[str, tuple[str, ...]]) -> list[str]:
    """Run every step, whatever became of the one before; give the names of those that failed."""
    failed: list[str] = []
    for name, arguments in steps.items():
        print(f"$ python -m {shlex.join(arguments)}", flush=True)
        started = time.monotonic()
        code = subprocess.run([python, "-m", *arguments], cwd=ROOT, check=False).returncode
        verdict = "ok" if code == 0 else f"FAILED with exit code {code}"
        print(f"  {name}: {verdict}, {time.monotonic() - started:.1f} s", flush=True)
        if code != 0:
            failed.append(name)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    parser = argparse.ArgumentParser(description="Check or mend the code.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="lint, format, types, layering, fast tests")
    check.add_argument("--no-tests", action="store_true", help="leave the fast tests out")
    commands.add_parser("fix", help="mend what lint and format can mend")
    options = parser.parse_args(arguments)
    try:
        python = ensure_environment(ROOT / "requirements-dev.txt")
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.command == "fix":
        failed = run_steps(python, FIXES)
    else:
        failed = run_steps(python, CHECKS if options.no_tests else {**CHECKS, **TESTS})
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
