"""The Streamlit page's Speak and Emotions tabs."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from ui import cards
from ui.connection import BackendError
from ui.progress import Progress
from ui.speech import MEDIA_TYPES
from ui.streamlit_state import Take, keep, takes
from ui.wav import BYTES_PER_SAMPLE

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.replies import Health
    from ui.speech import SpeechForm
    from ui.streamlit_state import BackendState

EXAMPLE = "The quick brown fox jumps over the lazy dog."


def speak_tab(client: BackendClient, state: BackendState, form: SpeechForm) -> None:
    """Draw the text, the button, the last take and the list of takes."""
    with st.container():  # keeps the place of what follows, whether there is a problem or not
        if state.problem:
            st.error(state.problem)
    text = st.text_area("Text", EXAMPLE, height=140, key="text")
    with st.container():
        if state.emotions is not None:
            st.pills(
                "Add a marker",
                state.emotions.quick_markers(),
                key="marker",
                on_change=_add_marker,
                help=state.emotions.caution or "Changes how the next sentence is spoken",
            )
    pressed = st.button(
        "Speak", type="primary", disabled=not state.is_ready, key="speak", shortcut="Ctrl+Enter"
    )
    if pressed:
        _speak(client, replace(form, text=text))
    if takes():
        _show(takes()[-1], state.health, autoplay=pressed)
        _list_takes()


def _add_marker() -> None:
    marker = st.session_state.marker
    if marker:
        st.session_state.text = f"{st.session_state.text.rstrip()} {marker} ".lstrip()
    st.session_state.marker = None


def _speak(client: BackendClient, form: SpeechForm) -> None:
    if not form.text.strip():
        st.error("Type something to say first.")
        return
    estimate = Progress(form.text, form.speed or 1.0)
    bar = st.progress(0.0, "Waiting for the first sound …")
    try:
        with client.speak_stream(form) as stream:
            pcm = bytearray()
            for piece in stream:
                pcm += piece
                seconds = len(pcm) / BYTES_PER_SAMPLE / stream.sample_rate
                bar.progress(estimate.fraction(seconds), f"Speaking … {seconds:.1f} s so far")
        facts = client.late_facts(stream.facts)
        audio = client.whole_file(form, facts, bytes(pcm))
    except BackendError as error:
        st.error(error.message)
        return
    finally:
        bar.empty()
    keep(form.text, audio, form.format, facts)


def _show(take: Take, health: Health | None, *, autoplay: bool) -> None:
    if take.facts.warning:
        st.info(take.facts.warning)
    media_type = MEDIA_TYPES[take.file_format]
    st.audio(take.audio, format=media_type, autoplay=autoplay)
    gpus = health.gpus if health else ()
    st.html(cards.cards_html(cards.speech_figures(take.facts, gpus), "Figures of the last take"))
    _download(take, "last")


def _list_takes() -> None:
    """Draw two takes side by side, to compare them."""
    kept = takes()
    st.subheader("Takes of this visit")
    st.caption(f"{len(kept)} kept" if len(kept) > 1 else "1 kept; speak again to compare two.")
    places = list(reversed(range(len(kept))))

    def label(place: int) -> str:
        return kept[place].label

    for column, side, place in zip(st.columns(2), "AB", (0, min(1, len(kept) - 1)), strict=True):
        with column:
            chosen = st.selectbox(
                f"Take {side}",
                places,
                index=place,
                format_func=label,
                key=f"take_{side}",
            )
            take = kept[chosen]
            st.audio(take.audio, format=MEDIA_TYPES[take.file_format])
            st.caption(
                f"{take.facts.voice_words} · first sound {cards.milliseconds(take.facts.ttfa_ms)}"
                f" · RTF {cards.ratio(take.facts.rtf)} · seed {take.facts.seed}"
            )
            _download(take, side)


def _download(take: Take, key: str) -> None:
    st.download_button(
        f"Download {take.file_format.upper()}",
        take.audio,
        file_name=f"speech-{take.facts.seed}.{take.file_format}",
        mime=MEDIA_TYPES[take.file_format],
        on_click="ignore",
        key=f"download_{key}",
    )


def emotions_tab(state: BackendState) -> None:
    """Draw the guide to the markers."""
    if state.emotions is None:
        st.info("The guide appears when the backend answers.")
        return
    if state.emotions.caution:
        st.warning(state.emotions.caution)
    for group in state.emotions.groups:
        st.subheader(group.title)
        st.caption(group.use)
        columns = st.columns(3)
        for number, marker in enumerate(group.markers):
            columns[number % 3].code(marker.example, language=None, wrap_lines=True)
