"""Serve one page in the foreground, where the settings say.

    python scripts/serve_page.py gradio|streamlit

The Windows launchers use this, in the environment's Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import TTSError
from scripts.environment import ROOT
from scripts.processes import require_port
from scripts.show_addresses import addresses
from scripts.start import page_command, url_of
from ui.settings import UiSettingsError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code of the page."""
    parser = argparse.ArgumentParser(description="Serve one page.")
    parser.add_argument("ui", choices=("gradio", "streamlit"))
    options = parser.parse_args(arguments)
    try:
        at = addresses()
        host, port = str(at["ui_host"]), int(str(at[f"{options.ui}_port"]))
        require_port(host, port, f"UI_{options.ui.upper()}_PORT in .env, for example")
    except (TTSError, UiSettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Page: {url_of(host, port)}", flush=True)
    command = page_command(Path(sys.executable), options.ui, host, port)
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
