"""Tell whether the backend that the pages are set to use answers.

The launchers of the pages run this first, in the environment's Python. Exit code 1: it does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import TTSError
from scripts.local_http import NO_ANSWER, fetch
from scripts.show_addresses import addresses
from ui.settings import UiSettingsError

TIMEOUT_S = 10.0


def backend_problem(url: str) -> str | None:
    """Say what is wrong with the backend at ``url``, or None when it answers."""
    status, answer = fetch(f"{url}/health", TIMEOUT_S)
    if status == 200:
        return None
    if status == NO_ANSWER:
        return (
            f"no backend answers at {url} ({answer.decode('utf-8', 'replace')}). Start it first: "
            "start_backend.bat, or python scripts/start.py --ui none. If it runs somewhere else, "
            "write its address into .env: UI_BACKEND_URL=http://host:port"
        )
    return (
        f"what answers at {url} is no healthy backend (status {status} for /health). Is another "
        "program using this port? Look at the backend's window, or change UI_BACKEND_URL in .env"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    parser = argparse.ArgumentParser(description="Check that the backend answers.")
    parser.add_argument("--url", help="address of the backend (default: UI_BACKEND_URL)")
    options = parser.parse_args(arguments)
    try:
        url = str(options.url or addresses()["backend_url"]).rstrip("/")
    except (TTSError, UiSettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    problem = backend_problem(url)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"The backend answers at {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
