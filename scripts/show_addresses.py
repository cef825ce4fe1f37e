"""Print as JSON where the backend and the pages are to listen, from the settings in force.

``scripts/start.py`` runs this in the environment's Python, because reading settings needs pydantic.
"""

from __future__ import annotations

import json
import sys

from backend.core.errors import TTSError
from backend.core.settings import read_settings
from ui.settings import UiSettingsError, read_ui_settings


def addresses() -> dict[str, object]:
    """Read both sides' settings.

    Raises:
        SettingsError: One of the backend's is unknown or malformed.
        UiSettingsError: One of the pages' is.
    """
    settings, ui = read_settings(), read_ui_settings()
    return {
        "model": settings.model,
        "host": settings.host,
        "port": settings.port,
        "ui_host": ui.host,
        "gradio_port": ui.gradio_port,
        "streamlit_port": ui.streamlit_port,
        "backend_url": ui.backend_url,
    }


if __name__ == "__main__":
    try:
        print(json.dumps(addresses()))
    except (TTSError, UiSettingsError) as error:
        sys.exit(str(error))
