"""The Streamlit page: ``python -m ui.streamlit_app`` or ``streamlit run ui/streamlit_app.py``."""

from __future__ import annotations

import sys
from pathlib import Path

if str(Path(__file__).resolve().parent.parent) not in sys.path:
    # Streamlit puts only the folder of this file on the path, and runs it again and again.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.web import cli

from ui import streamlit_parts as parts
from ui.assets import ICON, asset
from ui.client import BackendClient
from ui.settings import UiSettingsError, read_ui_settings


def draw() -> None:
    """Draw the page; Streamlit calls this again after every change of a control."""
    st.set_page_config(page_title="Fish Speech", page_icon=str(ICON), layout="wide")
    st.html(f"<style>{asset('cards.css')}{asset('streamlit.css')}</style>")
    try:
        settings = read_ui_settings()
    except UiSettingsError as error:
        st.error(str(error))
        st.stop()
    st.logo(str(ICON), size="large")
    st.title("Fish Speech")
    url = st.sidebar.text_input("Backend", settings.backend_url, help="Its address")
    with BackendClient(url, timeout_s=settings.timeout_s) as client:
        _draw_parts(client)


def _draw_parts(client: BackendClient) -> None:
    state = parts.look_at(client)
    with st.sidebar:
        form = parts.sidebar(state)
    speak, emotions, system = st.tabs(["Speak", "Emotions", "System"])
    with speak:
        parts.speak_tab(client, state, form)
    with emotions:
        parts.emotions_tab(state)
    with system:
        parts.system_tab(client, state)


def serve() -> None:
    """Run Streamlit on this file; its theme and switches are in ``ui/.streamlit/config.toml``."""
    try:
        settings = read_ui_settings()
    except UiSettingsError as error:
        sys.exit(f"error: {error}")
    sys.argv = ["streamlit", "run", str(Path(__file__).resolve())]
    sys.argv += ["--server.address", settings.host]
    sys.argv += ["--server.port", str(settings.streamlit_port)]
    cli.main(prog_name="streamlit")


if __name__ == "__main__":
    if get_script_run_ctx(suppress_warning=True) is None:
        serve()
    else:
        draw()
