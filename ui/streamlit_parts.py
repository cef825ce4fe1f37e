"""The parts of the Streamlit page. Each draws itself; what lasts is in ``st.session_state``."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import streamlit as st

from ui import cards
from ui.client import FORMATS, BackendError, Recording, SpeechForm
from ui.wav import BYTES_PER_SAMPLE

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.replies import Emotions, Health, SpeechFacts, Voice

EXAMPLE = "The quick brown fox jumps over the lazy dog."
MEDIA_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg"}
MAX_SEED = 2**32 - 1
CHART_TAKES = 50


@dataclass(frozen=True, slots=True)
class BackendState:
    """What the backend says about itself; ``problem`` when it says nothing."""

    health: Health | None = None
    voices: tuple[Voice, ...] = ()
    emotions: Emotions | None = None
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether it can speak now."""
        return self.health is not None and self.health.is_ready


@dataclass(frozen=True, slots=True)
class Take:
    """The last piece of speech."""

    text: str
    audio: bytes
    file_format: str
    facts: SpeechFacts


def look_at(client: BackendClient) -> BackendState:
    """Ask the backend for all that the page shows of it."""
    try:
        health = client.health()
        if not health.is_ready:
            return BackendState(health=health)
        return BackendState(health, client.voices(), client.emotions())
    except BackendError as error:
        return BackendState(problem=error.message)


def sidebar(state: BackendState) -> SpeechForm:
    """Draw the settings and give the form they make; its text is still empty."""
    st.html(cards.health_html(state.health))
    if not state.is_ready:
        st.button("Ask again", key="ask_again", width="stretch")
    voice = st.selectbox(
        "Voice",
        [voice.name for voice in state.voices],
        index=next((i for i, voice in enumerate(state.voices) if voice.is_default), 0),
        format_func=lambda name: _described(state.voices, name),
        placeholder="No voices yet",
        disabled=not state.voices,
    )
    with st.expander("Speak like a recording"):
        recording, transcript = _recording_controls()
    with st.expander("Sampling"):
        form = _sampling_controls()
    file_format = st.selectbox("File format", FORMATS, format_func=str.upper)
    seed = st.number_input(
        "Seed", 0, MAX_SEED, value=None, step=1, placeholder="empty draws one", format="%d"
    )
    return replace(
        form,
        voice=voice,
        recording=recording,
        transcript=transcript or None,
        seed=seed,
        format=file_format,
    )


def _described(voices: tuple[Voice, ...], name: str) -> str:
    voice = next(voice for voice in voices if voice.name == name)
    return f"{name} — {voice.description}" if voice.description else name


def _recording_controls() -> tuple[Recording | None, str]:
    st.caption(
        "5 to 30 seconds of one person, without music. While a recording is here, it takes the "
        "place of the voice."
    )
    given = st.file_uploader("Recording", key="recording") or st.audio_input("Or speak one now")
    transcript = st.text_area("What is said in it", height=80, key="transcript")
    return (Recording(given.name, given.getvalue()) if given else None), transcript.strip()


def _sampling_controls() -> SpeechForm:
    own = st.checkbox("Choose the values myself", help="Else the model's own values are used")
    temperature = st.slider("Temperature", 0.0, 2.0, 0.8, 0.05, disabled=not own)
    top_p = st.slider("Top P", 0.05, 1.0, 0.8, 0.05, disabled=not own)
    top_k = st.slider("Top K (0 keeps all)", 0, 200, 0, disabled=not own)
    penalty = st.slider("Repetition penalty", 1.0, 2.0, 1.1, 0.05, disabled=not own)
    frames = st.slider("Most frames", 16, 4096, 1024, 16, disabled=not own)
    if not own:
        return SpeechForm(text="")
    return SpeechForm(
        text="",
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=penalty,
        max_new_tokens=frames,
    )


def speak_tab(client: BackendClient, state: BackendState, form: SpeechForm) -> None:
    """Draw the text, the button, the last take and the chart of this session."""
    if state.problem:
        st.error(state.problem)
    text = st.text_area("Text", EXAMPLE, height=140, key="text")
    if state.emotions is not None:
        st.pills(
            "Add a marker",
            state.emotions.quick_markers(),
            key="marker",
            on_change=_add_marker,
            help=state.emotions.caution or "Changes how the next sentence is spoken",
        )
    pressed = st.button("Speak", type="primary", disabled=not state.is_ready, key="speak")
    if pressed:
        _speak(client, replace(form, text=text))
    take: Take | None = st.session_state.get("take")
    if take is not None:
        _show(take, state.health, autoplay=pressed)
    _chart()


def _add_marker() -> None:
    marker = st.session_state.marker
    if marker:
        st.session_state.text = f"{st.session_state.text.rstrip()} {marker} ".lstrip()
    st.session_state.marker = None


def _speak(client: BackendClient, form: SpeechForm) -> None:
    if not form.text.strip():
        st.error("Type something to say first.")
        return
    progress = st.empty()
    progress.caption("Waiting for the first sound …")
    try:
        with client.speak_stream(form) as stream:
            pcm = bytearray()
            for piece in stream:
                pcm += piece
                seconds = len(pcm) / BYTES_PER_SAMPLE / stream.sample_rate
                progress.caption(f"Speaking … {seconds:.1f} s so far")
        facts = client.late_facts(stream.facts)
        audio = client.whole_file(form, facts, bytes(pcm))
    except BackendError as error:
        st.error(error.message)
        return
    finally:
        progress.empty()
    st.session_state.take = Take(form.text, audio, form.format, facts)
    history: list[SpeechFacts] = st.session_state.setdefault("history", [])
    history.append(facts)
    del history[:-CHART_TAKES]


def _show(take: Take, health: Health | None, *, autoplay: bool) -> None:
    if take.facts.warning:
        st.info(take.facts.warning)
    media_type = MEDIA_TYPES[take.file_format]
    st.audio(take.audio, format=media_type, autoplay=autoplay)
    gpus = health.gpus if health else ()
    st.html(cards.cards_html(cards.speech_figures(take.facts, gpus), "Figures of the last take"))
    st.download_button(
        f"Download {take.file_format.upper()}",
        take.audio,
        file_name=f"speech-{take.facts.seed}.{take.file_format}",
        mime=media_type,
        on_click="ignore",
    )


def _chart() -> None:
    history: list[SpeechFacts] = st.session_state.get("history", [])
    if not history:
        return
    takes = "1 take" if len(history) == 1 else f"{len(history)} takes"
    st.subheader("This session")
    st.caption(f"{takes}, times in milliseconds")
    st.line_chart(
        {
            "Take": list(range(1, len(history) + 1)),
            "First sound": [facts.ttfa_ms for facts in history],
            "Latency": [facts.latency_ms for facts in history],
        },
        x="Take",
        y=["First sound", "Latency"],
        color=["#f59e0b", "#0f9d8d"],
        height=220,
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


def system_tab(client: BackendClient, state: BackendState) -> None:
    """Draw the backend's facts, its metrics and the button that clears its caches."""
    if state.health is None:
        st.error(state.problem)
        return
    st.html(cards.cards_html(cards.system_figures(state.health), "The backend"))
    for note in state.health.notes:
        st.caption(note)
    st.markdown(f"Interface for programs: [{client.base_url}/docs]({client.base_url}/docs)")
    if st.button("Clear the caches", key="clear"):
        try:
            client.clear_cache()
        except BackendError as error:
            st.error(error.message)
        else:
            st.success("The caches are empty.")
    with st.expander("Metrics, as Prometheus reads them"):
        if st.button("Read them", key="metrics"):
            try:
                st.code(client.metrics(), language=None)
            except BackendError as error:
                st.error(error.message)
