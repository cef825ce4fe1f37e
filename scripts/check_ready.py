"""Tell whether this container's backend can speak: its health check. Exit code 1: not yet."""

from __future__ import annotations

import sys

from backend.core.settings import read_settings
from scripts.local_http import fetch
from scripts.start import url_of

TIMEOUT_S = 4.0


def main() -> int:
    """Ask ``/health/ready`` where the settings say that the backend listens."""
    settings = read_settings()
    url = f"{url_of(settings.host, settings.port)}/health/ready"
    status, answer = fetch(url, TIMEOUT_S)
    print(f"{url}: {status} {answer[:200].decode('utf-8', 'replace')}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
