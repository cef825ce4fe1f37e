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

from ui.assets import ICON, asset
from ui.settings import UiSettings, UiSettingsError, read_ui_settings
from ui.streamlit_jobs import jobs_tab
from ui.streamlit_sidebar import sidebar
from ui.streamlit_speak import emotions_tab, speak_tab
from ui.streamlit_state import Backend, look_at
from ui.streamlit_system import dashboard_tab, system_tab
from ui.streamlit_voices import voices_tab

TABS = ("Speak", "Dashboard", "Voices", "Jobs", "Emotions", "System")


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
    _draw_parts(Backend(url, settings.timeout_s, _api_key(settings)))


def _api_key(settings: UiSettings) -> str:
    """Give the settings' key, or the visitor's own."""
    if settings.api_key_text or not st.session_state.get("asks_for_key"):
        return settings.api_key_text
    return st.sidebar.text_input(
        "API key",
        type="password",
        key="api_key",
        help="The backend asks for one. It stays in this visit.",
    ).strip()


def _draw_parts(backend: Backend) -> None:
    with backend.open() as client:
        state = look_at(client)
        if state.asks_for_key and not st.session_state.get("asks_for_key"):
            st.session_state.asks_for_key = True
            st.rerun()
        with st.sidebar:
            form = sidebar(state)
        speak, dashboard, voices, jobs, emotions, system = st.tabs(TABS)
        with speak:
            speak_tab(client, state, form)
        with dashboard:
            if state.is_ready:
                dashboard_tab(backend)
            else:
                st.info("The dashboard appears when the backend answers.")
        with voices:
            voices_tab(client, state)
        with jobs:
            jobs_tab(client, backend, state, form)
        with emotions:
            emotions_tab(state)
        with system:
            system_tab(client, state)


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
