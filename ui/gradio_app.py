"""The Gradio page: ``python -m ui.gradio_app`` from the root of the project."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # also as `python ui/gradio_app.py`, where only ui/ is on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ui.assets import ICON, asset
from ui.client import BackendClient
from ui.gradio_page import build_page
from ui.gradio_theme import page_theme
from ui.settings import UiSettings, UiSettingsError, read_ui_settings

if TYPE_CHECKING:
    from collections.abc import Generator

WAKE_S = 0.5
"""On Windows a wait without an end does not notice Ctrl-C."""


@contextmanager
def served_page(settings: UiSettings) -> Generator[str, None, None]:
    """Serve the page while the block runs.

    Args:
        settings: Where the page listens and where its backend is.

    Yields:
        The page's address.
    """
    with (
        BackendClient(
            settings.backend_url, timeout_s=settings.timeout_s, api_key=settings.api_key_text
        ) as client,
        tempfile.TemporaryDirectory(prefix="fish-speech-page-") as files,
    ):
        page = build_page(client, Path(files))
        _, address, _ = page.launch(
            server_name=settings.host,
            server_port=settings.gradio_port,
            theme=page_theme(),
            css=asset("cards.css") + asset("gradio.css"),
            head=f"<script>{asset('sound_pictures.js')}</script>",
            favicon_path=ICON,
            allowed_paths=[files],
            footer_links=[],
            share=False,
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size="64mb",
            quiet=True,
            prevent_thread_lock=True,
        )
        try:
            yield address
        finally:
            page.close()


def main() -> None:
    """Run the page until Ctrl-C or a polite request to end."""
    try:
        settings = read_ui_settings()
    except UiSettingsError as error:
        sys.exit(f"error: {error}")
    stopping = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopping.set()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # each system knows some of them
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    try:
        with served_page(settings) as url:
            print(f"The page is at {url}  (Ctrl-C stops it)", flush=True)  # noqa: T201
            while not stopping.wait(WAKE_S):
                pass
    except OSError as error:
        sys.exit(
            f"error: the page cannot listen on {settings.host}:{settings.gradio_port}: is the port "
            f"taken? Choose another with UI_GRADIO_PORT. ({error})"
        )


if __name__ == "__main__":
    main()
