"""The Streamlit page's Voices tab: look at voices, change them, add new ones."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from ui.connection import BackendError
from ui.speech import Recording
from ui.voice_cards import clinic_html, voice_html
from ui.voice_client import VoiceNotes, require_notes

if TYPE_CHECKING:
    from collections.abc import Generator

    from ui.client import BackendClient
    from ui.streamlit_state import BackendState
    from ui.voice_replies import VoiceDetails


def voices_tab(client: BackendClient, state: BackendState) -> None:
    """Draw the library and the form for a new voice."""
    if not state.is_ready:
        st.info("The voices appear when the backend answers.")
        return
    with st.container():
        if news := st.session_state.pop("voice_news", ""):
            st.success(news)
    library, new = st.columns(2, gap="large")
    with library:
        _library(client, state)
    with new:
        _new_voice(client)


def _library(client: BackendClient, state: BackendState) -> None:
    st.subheader("Library")
    labels = {voice.name: voice.label for voice in state.voices}

    def label(name: str) -> str:
        return labels[name]

    if not labels:
        st.info("There are no voices yet: add one.")
    else:
        chosen = st.selectbox("Voice to look at", list(labels), format_func=label, key="library")
        with _said_errors():
            voice = client.library.get(chosen)
            st.html(voice_html(voice))
            _listen_and_export(client, voice)
            if not voice.is_builtin:
                _changes(client, voice)
    given = st.file_uploader("Import a voice file", key="import")
    if given is not None and st.button("Import", key="import_button"):
        with _said_errors():
            _renew(f"{client.library.restore(given.name, given.getvalue())} is imported.")


def _listen_and_export(client: BackendClient, voice: VoiceDetails) -> None:
    listen, export = st.columns(2)
    if listen.button("Listen", key="listen", width="stretch"):
        st.audio(client.library.preview(voice.name), format="audio/wav", autoplay=True)
    if export.button("Export", key="export", width="stretch"):
        st.download_button(
            f"Download {voice.name}.fishvoice",
            client.library.export(voice.name),
            file_name=f"{voice.name}.fishvoice",
            mime="application/octet-stream",
            on_click="ignore",
        )


def _changes(client: BackendClient, voice: VoiceDetails) -> None:
    with st.expander("Rename, describe, delete"):
        name = st.text_input("Rename to", voice.name)
        description = st.text_input("Its description", voice.description)
        language = st.text_input("Its language", voice.language)
        tags = st.text_input("Tags", ", ".join(voice.tags))
        if st.button("Save", key="save_voice"):
            notes = VoiceNotes(name=name, description=description, language=language, tags=tags)
            client.library.change(voice.name, notes)
            _renew("Saved.")
        is_sure = st.checkbox("I want to delete this voice")
        if st.button("Delete", disabled=not is_sure, key="delete_voice"):
            client.library.delete(voice.name)
            _renew(f"{voice.name} is deleted.")


def _new_voice(client: BackendClient) -> None:
    st.subheader("Add a voice")
    st.caption("5 to 30 seconds of one person, without music and without echo.")
    # Both are always drawn: what lies below must not jump when one is used.
    chosen = st.file_uploader("Its recording", key="new_recording")
    spoken = st.audio_input("Or speak it now", key="new_spoken")
    given = chosen or spoken
    transcript = st.text_area("Words of the recording", height=80, key="new_transcript")
    notes = VoiceNotes(
        name=st.text_input("Name", key="new_name").strip(),
        language=st.text_input("Language", placeholder="en", key="new_language").strip(),
        description=st.text_input("Description", key="new_description").strip(),
        consent=st.text_input(
            "Who allowed it", placeholder="my own voice; or: Ada, by e-mail", key="new_consent"
        ).strip(),
    )
    check, add = st.columns(2)
    is_check = check.button("Check the recording", key="check_voice", width="stretch")
    is_add = add.button("Add the voice", key="add_voice", type="primary", width="stretch")
    if not (is_check or is_add):
        return
    with _said_errors():
        if given is None:
            raise BackendError("Choose a recording first, or speak one.")
        recording = Recording(given.name, given.getvalue())
        if is_check:
            st.html(clinic_html(client.library.check(recording)))
            return
        require_notes(notes)
        added = client.library.add(notes, recording, transcript)
        _renew(f"{added.voice.name} is added and can be chosen.")


def _renew(news: str) -> None:
    """Draw the page again with the library as it is now."""
    st.session_state.voice_news = news
    st.rerun()


@contextmanager
def _said_errors() -> Generator[None, None, None]:
    try:
        yield
    except BackendError as error:
        st.error(error.message)
