"""The Streamlit page's sidebar: how the next text is spoken."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from ui import cards
from ui.presets import BY_KEY, CUSTOM, MAX_NEW_TOKENS, MODEL, PRESETS
from ui.speech import FORMATS, LANGUAGES, MAX_SEED, SAMPLE_RATES, Recording, SpeechForm

if TYPE_CHECKING:
    from ui.streamlit_state import BackendState


def sidebar(state: BackendState) -> SpeechForm:
    """Draw the settings and give the form they make; its text is still empty."""
    if state.asks_for_key:
        st.html(cards.pill_html("busy", "Needs an API key", ""))
    else:
        st.html(cards.health_html(state.health))
    with st.container():
        if not state.is_ready:
            st.button("Ask again", key="ask_again", width="stretch")
    voice = _voice(state)
    with st.expander("Speak like a recording"):
        recording, transcript = _recording_controls()
    with st.expander("Sound and file"):
        form = _sound_controls()
    with st.expander("Sampling"):
        form = _sampling_controls(form)
    return replace(form, voice=voice, recording=recording, transcript=transcript or None)


def _voice(state: BackendState) -> str | None:
    labels = {voice.name: voice.label for voice in state.voices}
    default = next((voice.name for voice in state.voices if voice.is_default), None)
    if st.session_state.get("voice") not in labels:  # the first time, or after a restart
        st.session_state.voice = default

    def label(name: str) -> str:
        return labels[name]

    return st.selectbox(
        "Voice",
        list(labels),
        format_func=label,
        placeholder="No voices yet",
        disabled=not labels,
        key="voice",
    )


def _recording_controls() -> tuple[Recording | None, str]:
    st.caption(
        "5 to 30 seconds of one person, without music. While a recording is here, it takes the "
        "place of the voice."
    )
    # Both are always drawn: what lies below must not jump when one is used.
    chosen, spoken = st.file_uploader("Recording", key="recording"), st.audio_input("Or speak one")
    given = chosen or spoken
    transcript = st.text_area("What is said in it", height=80, key="transcript")
    return (Recording(given.name, given.getvalue()) if given else None), transcript.strip()


def _sound_controls() -> SpeechForm:
    """Draw how it is to sound; what is left as it is, is not sent."""
    file_format = st.selectbox("File format", FORMATS, format_func=str.upper, key="format")
    speed = st.slider("Speed", 0.5, 2.0, 1.0, 0.05, key="speed")
    volume = st.slider("Volume (dB)", -20, 20, 0, key="volume")
    normalize = st.checkbox("Bring to one loudness", key="normalize", help="-16 LUFS")
    trim_silence = st.checkbox(
        "Trim silence", key="trim_silence", help="Nothing before the first word and after the last"
    )
    rate = st.selectbox(
        "Sample rate",
        [None, *SAMPLE_RATES],
        format_func=lambda hz: f"{hz / 1000:g} kHz" if hz else "As the model makes it",
        key="sample_rate",
    )
    language = st.selectbox(
        "Language of the text",
        [None, *LANGUAGES],
        format_func=lambda code: LANGUAGES.get(code or "", "As the text says"),
        help="Guides where long texts are cut",
        key="language",
    )
    return SpeechForm(
        text="",
        language=language,
        speed=speed if speed != 1 else None,
        volume=float(volume) if volume else None,
        sample_rate=rate,
        normalize=normalize or None,
        trim_silence=trim_silence or None,
        format=file_format,
    )


def _sampling_controls(form: SpeechForm) -> SpeechForm:
    seed = st.number_input(
        "Seed",
        0,
        MAX_SEED,
        value=None,
        step=1,
        placeholder="empty draws one",
        format="%d",
        key="seed",
    )
    form = replace(form, seed=seed)
    chosen = st.selectbox(
        "Variation",
        list(BY_KEY),
        format_func=lambda key: BY_KEY[key].title,
        on_change=_take_preset,
        key="preset",
    )
    st.caption(BY_KEY[chosen].note)
    is_own = chosen != MODEL
    for name, value in zip(_SLIDERS, PRESETS[0].values, strict=True):
        st.session_state.setdefault(name, value)
    st.slider("Temperature", 0.0, 2.0, step=0.05, key="temperature", disabled=not is_own)
    st.slider("Top P", 0.05, 1.0, step=0.05, key="top_p", disabled=not is_own)
    st.slider("Top K (0 keeps all)", 0, 200, key="top_k", disabled=not is_own)
    st.slider("Repetition penalty", 1.0, 2.0, step=0.05, key="penalty", disabled=not is_own)
    frames = st.slider(
        "Most frames", 16, 4096, MAX_NEW_TOKENS, 16, key="frames", disabled=not is_own
    )
    if not is_own:
        return form
    temperature, top_p, top_k, penalty = (st.session_state[name] for name in _SLIDERS)
    return replace(
        form,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=penalty,
        max_new_tokens=frames,
    )


_SLIDERS = ("temperature", "top_p", "top_k", "penalty")


def _take_preset() -> None:
    """Put the chosen preset's values on the sliders."""
    chosen: str = st.session_state.preset
    if chosen not in {MODEL, CUSTOM}:
        for name, value in zip(_SLIDERS, BY_KEY[chosen].values, strict=True):
            st.session_state[name] = value
