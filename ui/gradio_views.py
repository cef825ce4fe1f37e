"""What the Gradio page shows in each situation: new values for its outputs."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ui.cards import (
    cards_html,
    download_html,
    live_figures,
    message_html,
    milliseconds,
    progress_html,
    ratio,
    speech_figures,
)
from ui.files import address_of
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ui.connection import BackendError
    from ui.progress import Progress
    from ui.replies import Emotions, Gpu, MarkerGroup, SpeechFacts, Voice
    from ui.speech import SpeechForm
    from ui.takes import LiveTake

NO_MARKERS: dict[str, Any] = {"quick": [], "groups": [], "note": ""}


class SpeakView(NamedTuple):
    """New values of the outputs of Speak and Stop, in the order in which the page lists them."""

    player: Any
    message: Any
    figures: Any
    download: Any
    speak_button: Any
    stop_button: Any


class BackendView(NamedTuple):
    """New values of what shows the backend's state, in the order in which the page lists them."""

    health: Any
    voice: Any
    markers: Any
    guide: Any
    key: Any
    seen: Any


SAME = cast("Any", gr.skip())
"""Leaves an output as it is."""

_UNCHANGED = SpeakView(*[SAME] * len(SpeakView._fields))
_IDLE = {"speak_button": gr.update(visible=True), "stop_button": gr.update(visible=False)}
_BUSY = {"speak_button": gr.update(visible=False), "stop_button": gr.update(visible=True)}


def player_value(state: str, **facts: object) -> str:
    """Give what the player script is told.

    A string: Gradio sends changes of a generator's outputs as differences, and its page may miss
    that a dictionary has changed when they are applied inside it.
    """
    return json.dumps({"state": state, **facts})


def waiting_view() -> SpeakView:
    """The request is on its way."""
    return SpeakView(
        player=player_value("waiting"),
        message=progress_html("Sent. Waiting for the first sound …", None),
        figures=SAME,
        download="",
        **_BUSY,
    )


def live_view(take: LiveTake, facts: SpeechFacts) -> SpeakView:
    """The first sound is there; the player starts to pull."""
    voice = f" with the voice of {facts.voice_words}" if facts.voice else ""
    return _UNCHANGED._replace(
        player=player_value("live", take=take.take_id, rate=take.sample_rate),
        message=progress_html(f"Speaking{voice} …", 0.0),
    )


def progress_view(take: LiveTake, facts: SpeechFacts, progress: Progress) -> SpeakView:
    """More sound has come."""
    figures = live_figures(facts, progress.elapsed_s, take.duration_s)
    return _UNCHANGED._replace(
        message=progress_html(
            f"Speaking … {take.duration_s:.1f} s so far", progress.fraction(take.duration_s)
        ),
        figures=cards_html(figures, "Figures of the take that is made"),
    )


def encoding_view(facts: SpeechFacts, gpus: Sequence[Gpu], file_format: str) -> SpeakView:
    """The speech is whole; its file is being made."""
    message = progress_html(f"Spoken. Writing the {file_format.upper()} file …", None)
    return _UNCHANGED._replace(figures=_figures(facts, gpus), message=message)


def done_view(
    form: SpeechForm, facts: SpeechFacts, gpus: Sequence[Gpu], take: LiveTake, file: Path
) -> SpeakView:
    """Speech and file are there; the player puts the take on its list."""
    words = f"Done: {take.duration_s:.1f} s of speech. {facts.warning}".strip()
    address = address_of(file)
    known = player_value(
        "done",
        take=take.take_id,
        rate=take.sample_rate,
        text=form.text.strip()[:200],
        voice=facts.voice_words,
        seed=facts.seed,
        figures=f"first sound {milliseconds(facts.ttfa_ms)} · RTF {ratio(facts.rtf)}",
        format=form.format.upper(),
        file=address,
        name=file.name,
    )
    return SpeakView(
        player=known,
        message=message_html(words, "info" if facts.warning else "good"),
        figures=_figures(facts, gpus),
        download=download_html(address, file.name, f"Download {form.format.upper()}"),
        **_IDLE,
    )


def _figures(facts: SpeechFacts, gpus: Sequence[Gpu]) -> str:
    return cards_html(speech_figures(facts, gpus), "Figures of the last take")


def stopped_view() -> SpeakView:
    """The visitor stopped it."""
    message = message_html("Stopped. What was spoken so far stays in the player.")
    return _UNCHANGED._replace(player=player_value("stopped"), message=message, **_IDLE)


def failed_view(error: BackendError) -> SpeakView:
    """It did not work, and why."""
    suffix = f" (request {error.request_id})" if error.request_id else ""
    message = message_html(error.message + suffix, "error")
    return _UNCHANGED._replace(player=player_value("failed"), message=message, **_IDLE)


def voice_choices(voices: Sequence[Voice], chosen: str | None) -> Any:
    """Give the voices to choose from; keeps the chosen one if it is still there."""
    names = [voice.name for voice in voices]
    default = next((voice.name for voice in voices if voice.is_default), None)
    choices = [(voice.label, voice.name) for voice in voices]
    return gr.update(choices=choices, value=chosen if chosen in names else default)


def marker_values(emotions: Emotions) -> dict[str, Any]:
    """Give what the templates of the marker buttons and of the guide fill in."""
    return {
        "quick": emotions.quick_markers(),
        "groups": [_group_values(group) for group in emotions.groups],
        "note": emotions.caution,
    }


def _group_values(group: MarkerGroup) -> dict[str, Any]:
    markers = [
        # What holds for the whole group is said once.
        {**marker.model_dump(), "use": "" if marker.use == group.use else marker.use}
        for marker in group.markers
    ]
    return {"name": group.title, "use": group.use, "markers": markers}


def file_name(form: SpeechForm, facts: SpeechFacts) -> str:
    """Name the file after the first words, so that downloads can be told apart."""
    words = re.findall(r"[^\W_]+", form.text.casefold())[:5]
    parts = ["-".join(words)[:40] or "speech", facts.voice, str(facts.seed or 0)]
    return "-".join(re.sub(r"[^\w-]", "", part) for part in parts if part) + "." + form.format
