"""The Speak tab: text, voice, sound."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui import cards
from ui.gradio_handlers import SpeakHandlers
from ui.gradio_parts import QUIET, from_assets, heading, recording_input, slider
from ui.gradio_views import NO_MARKERS, SAME, player_value
from ui.presets import BY_KEY, CUSTOM, MAX_NEW_TOKENS, MODEL, PRESETS
from ui.quiet_gradio import gr
from ui.speech import FORMATS, LANGUAGES, SAMPLE_RATES

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.files import FileShelf

MAX_SPEAKERS = 16
"""Visitors that can speak at the same time; the backend queues them as its own limits say."""
EXAMPLE = "The quick brown fox jumps over the lazy dog."


class SpeakTab:
    """Build the tab inside a ``gr.Tab``; ``connect`` it once the rest of the page is there."""

    def __init__(self, client: BackendClient, files: FileShelf) -> None:
        self.does = SpeakHandlers(client, files)
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=7, min_width=320):
                self._writing_side()
            with gr.Column(scale=4, min_width=300):
                self._voice_side()

    def _writing_side(self) -> None:
        with gr.Column(elem_classes="sheet"):
            self.text = gr.Textbox(
                label="Text",
                value=EXAMPLE,
                placeholder="Type something to say …",
                lines=5,
                max_lines=16,
                elem_id="speech-text",
            )
            self.markers = from_assets("markers", NO_MARKERS)
            with gr.Row(elem_id="actions"):
                self.voice = gr.Dropdown(
                    choices=[], value=None, label="Voice", elem_id="voice", scale=1
                )
                self.speak_button = gr.Button(
                    "Speak", variant="primary", elem_id="speak", scale=0, min_width=140
                )
                self.stop_button = gr.Button(
                    "Stop", variant="stop", elem_id="stop", scale=0, min_width=140, visible=False
                )
            self.message = gr.HTML(
                cards.message_html("Ctrl + Enter speaks, Esc stops."), elem_id="message"
            )
        with gr.Column(elem_classes="sheet"):
            self.player = from_assets("player", player_value("empty"), [_pull_of(self.does)])
            self.download = gr.HTML(elem_id="download")
            self.figures = gr.HTML(elem_id="figures")
        from_assets("history", "")

    def _voice_side(self) -> None:
        with gr.Column(elem_classes="sheet", elem_id="cloning"):
            heading(
                "Speak like a recording",
                "5 to 30 seconds of one person, without music. While a recording is here, it "
                "takes the place of the voice.",
            )
            self.recording = recording_input("recording")
            self.transcript = gr.Textbox(
                label="What is said in it",
                placeholder="Word for word; the voice becomes clearer with it",
                lines=2,
                elem_id="transcript",
            )
        with gr.Column(elem_classes="sheet"):
            self._sound()
        with gr.Column(elem_classes="sheet"):
            self._advanced()

    def _sound(self) -> None:
        with gr.Accordion("Sound and file", open=False, elem_id="sound"):
            self.speed = slider("Speed", 1, 0.5, 2, 0.05, "2 is twice as fast, at the same pitch")
            self.volume = slider("Volume", 0, -20, 20, 1, "Decibels; 0 is as spoken")
            self.normalize = gr.Checkbox(
                label="Bring to one loudness", info="-16 LUFS, as podcasts have it"
            )
            self.trim_silence = gr.Checkbox(
                label="Trim silence", info="Nothing before the first word and after the last"
            )
            self.file_format = gr.Dropdown(
                [(name.upper(), name) for name in FORMATS], value="wav", label="File format"
            )
            rates = [(f"{rate / 1000:g} kHz", rate) for rate in SAMPLE_RATES]
            self.sample_rate = gr.Dropdown(
                [("As the model makes it", 0), *rates], value=0, label="Sample rate"
            )
            languages = [(name, code) for code, name in LANGUAGES.items()]
            self.language = gr.Dropdown(
                [("As the text says", ""), *languages],
                value="",
                label="Language of the text",
                info="Guides where long texts are cut",
            )

    def _advanced(self) -> None:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.seed = gr.Textbox(
                label="Seed", placeholder="empty draws one", max_lines=1, elem_id="seed"
            )
            self.preset = gr.Radio(
                [(preset.title, preset.key) for preset in PRESETS],
                value=MODEL,
                label="Variation",
                elem_id="preset",
            )
            self.preset_note = gr.HTML(_note_of(MODEL))
            with gr.Column(visible=False, elem_id="sampling") as self.sampling:
                self.temperature = slider("Temperature", 0.8, 0, 2, 0.05, "Higher is livelier")
                self.top_p = slider("Top P", 0.8, 0.05, 1, 0.05, "Share of likely codes kept")
                self.top_k = slider("Top K", 0, 0, 200, 1, "Most codes kept; 0 keeps all")
                self.penalty = slider(
                    "Repetition penalty", 1.1, 1, 2, 0.05, "Higher avoids stuck sounds"
                )
                self.max_tokens = slider(
                    "Most frames", MAX_NEW_TOKENS, 16, 4096, 16, "Bounds the length of each stretch"
                )

    def connect(self, key: gr.Textbox) -> None:
        """Wire the controls; ``key`` is the visitor's API key."""
        controls: list[Any] = [
            self.text, self.voice, self.recording, self.transcript, self.preset,
            self.temperature, self.top_p, self.top_k, self.penalty, self.max_tokens,
            self.seed, self.file_format, self.language, self.speed, self.volume,
            self.sample_rate, self.normalize, self.trim_silence, key,
        ]  # fmt: skip
        outputs: list[Any] = [
            self.player, self.message, self.figures, self.download,
            self.speak_button, self.stop_button,
        ]  # fmt: skip
        speaking = self.speak_button.click(
            self.does.speak,
            controls,
            outputs,
            # Inside the click: browsers let a page sound only after a gesture.
            js="(...values) => { window.openPlayer(); return values; }",
            concurrency_limit=MAX_SPEAKERS,
            **QUIET,
        )
        self.stop_button.click(self.does.stop, self.player, outputs, cancels=[speaking], **QUIET)
        self._connect_presets()

    def _connect_presets(self) -> None:
        sampling: list[Any] = [self.temperature, self.top_p, self.top_k, self.penalty]
        self.preset.input(
            _chosen_preset, self.preset, [self.preset_note, self.sampling, *sampling], **QUIET
        )
        gr.on(
            [value.release for value in sampling],
            lambda: (CUSTOM, _note_of(CUSTOM)), None, [self.preset, self.preset_note], **QUIET,
        )  # fmt: skip


def _chosen_preset(key: str) -> tuple[Any, ...]:
    values: tuple[Any, ...] = BY_KEY[key].values
    if key in {MODEL, CUSTOM}:
        values = (SAME,) * len(values)
    return (_note_of(key), gr.update(visible=key != MODEL), *values)


def _note_of(key: str) -> str:
    return f"<p class='note'>{BY_KEY[key].note}</p>"


def _pull_of(does: SpeakHandlers) -> Any:
    # Gradio marks server functions with an attribute, which a bound method cannot take.
    def pull(request: list[Any]) -> dict[str, Any]:
        return does.pull(request)

    return pull
