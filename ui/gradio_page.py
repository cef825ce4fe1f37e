"""The layout of the Gradio page and the wires between its controls."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui import cards
from ui.assets import asset
from ui.client import FORMATS
from ui.gradio_handlers import PageHandlers
from ui.gradio_views import NO_MARKERS, player_value
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from pathlib import Path

    from ui.client import BackendClient

HEALTH_INTERVAL_S = 5.0
MAX_SPEAKERS = 16
"""Visitors that can speak at the same time; the backend queues them as its own limits say."""
EXAMPLE = "The quick brown fox jumps over the lazy dog."


def build_page(client: BackendClient, files: Path) -> gr.Blocks:
    """Build the page. Nothing is asked of the backend before a visitor comes.

    Args:
        client: Of the backend.
        files: Folder for the files that are offered for download.
    """
    return _Page(client, files).blocks


class _Page:
    """Builds the components, then connects them."""

    def __init__(self, client: BackendClient, files: Path) -> None:
        self.does = PageHandlers(client, files)
        self.backend_url = client.base_url
        with gr.Blocks(
            title="Fish Speech", analytics_enabled=False, delete_cache=(3600, 24 * 3600)
        ) as self.blocks:
            self._header()
            with gr.Tabs(elem_id="pages"):
                with gr.Tab("Speak", id="speak"), gr.Row(elem_id="desk"):
                    with gr.Column(scale=7, min_width=320):
                        self._writing_side()
                    with gr.Column(scale=4, min_width=300):
                        self._voice_side()
                with gr.Tab("Emotion guide", id="guide"):
                    self.guide = _from_assets("guide", NO_MARKERS)
                with gr.Tab("System", id="system") as self.system_tab:
                    self._system()
            self._connect_speaking()
            self._connect_backend_state()

    def _header(self) -> None:
        with gr.Row(elem_id="masthead"):
            gr.HTML(asset("masthead.html"), elem_id="brand")
            self.health = gr.HTML(elem_id="health")

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
            self.markers = _from_assets("markers", NO_MARKERS)
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
            self.message = gr.HTML(cards.message_html("Ctrl + Enter speaks."), elem_id="message")
        with gr.Column(elem_classes="sheet"):
            self.player = _from_assets("player", player_value("empty"), [_pull_of(self.does)])
            self.download = gr.DownloadButton(
                "Download", visible=False, size="sm", elem_id="download"
            )
            self.figures = gr.HTML(elem_id="figures")

    def _voice_side(self) -> None:
        with gr.Column(elem_classes="sheet", elem_id="cloning"):
            gr.HTML(
                "<h2>Speak like a recording</h2><p class='note'>5 to 30 seconds of one person, "
                "without music. While a recording is here, it takes the place of the voice.</p>"
            )
            self.recording = gr.Audio(
                label="Recording",
                sources=["upload", "microphone"],
                type="filepath",
                buttons=[],  # its share button would leave this machine
                elem_id="recording",
            )
            self.transcript = gr.Textbox(
                label="What is said in it",
                placeholder="Word for word; the voice becomes clearer with it",
                lines=2,
                elem_id="transcript",
            )
        with gr.Column(elem_classes="sheet"):
            self._advanced()

    def _advanced(self) -> None:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.file_format = gr.Dropdown(
                choices=[(name.upper(), name) for name in FORMATS],
                value="wav",
                label="File format",
            )
            self.seed = gr.Textbox(
                label="Seed", placeholder="empty draws one", max_lines=1, elem_id="seed"
            )
            self.use_own = gr.Checkbox(label="Choose the sampling values myself", value=False)
            with gr.Column(visible=False, elem_id="sampling") as self.sampling:
                self.temperature = _slider("Temperature", 0.8, 0, 2, 0.05, "Higher is livelier")
                self.top_p = _slider("Top P", 0.8, 0.05, 1, 0.05, "Share of likely codes kept")
                self.top_k = _slider("Top K", 0, 0, 200, 1, "Most codes kept; 0 keeps all")
                self.penalty = _slider(
                    "Repetition penalty", 1.1, 1, 2, 0.05, "Higher avoids stuck sounds"
                )
                self.max_tokens = _slider(
                    "Most frames", 1024, 16, 4096, 16, "Bounds the length of each stretch"
                )

    def _system(self) -> None:
        with gr.Column(elem_classes="sheet"):
            self.system_figures = gr.HTML(elem_id="system-figures")
            gr.HTML(
                f"<p class='note'>Interface for programs: <a href='{self.backend_url}/docs' "
                f"target='_blank' rel='noopener'>{self.backend_url}/docs</a></p>"
            )
            with gr.Row(elem_id="system-actions"):
                self.clear_button = gr.Button("Clear the caches", size="sm", scale=0, min_width=150)
                self.reload_button = gr.Button(
                    "Ask the backend again", size="sm", scale=0, min_width=180
                )
                self.clear_message = gr.HTML()
            with gr.Accordion("Metrics, as Prometheus reads them", open=False):
                self.metrics = gr.Textbox(
                    show_label=False, label="Metrics", lines=16, max_lines=16, elem_id="metrics"
                )

    def _connect_speaking(self) -> None:
        controls = [
            self.text, self.voice, self.recording, self.transcript, self.use_own,
            self.temperature, self.top_p, self.top_k, self.penalty, self.max_tokens,
            self.seed, self.file_format,
        ]  # fmt: skip
        outputs = [
            self.player, self.message, self.figures, self.download,
            self.speak_button, self.stop_button,
        ]  # fmt: skip
        speaking = self.speak_button.click(
            self.does.speak,
            controls,
            outputs,
            # Inside the click: browsers let a page sound only after a gesture.
            js="(...values) => { window.openPlayer(); return values; }",
            show_progress="hidden",
            concurrency_limit=MAX_SPEAKERS,
            api_visibility="private",
        )
        self.stop_button.click(
            self.does.stop,
            self.player,
            outputs,
            cancels=[speaking],
            show_progress="hidden",
            api_visibility="private",
        )
        self.use_own.change(
            _shown_if,
            self.use_own,
            self.sampling,
            show_progress="hidden",
            api_visibility="private",
        )

    def _connect_backend_state(self) -> None:
        seen = gr.State(None)
        shown = [self.health, self.voice, self.markers, self.guide, seen]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [self.blocks.load, gr.Timer(HEALTH_INTERVAL_S).tick],
            self.does.refresh,
            [self.voice, seen],
            shown,
            **quiet,
        )
        system = [self.system_figures, self.metrics]
        gr.on(
            [self.system_tab.select, self.reload_button.click],
            self.does.system, None, system, **quiet,
        )  # fmt: skip
        self.clear_button.click(self.does.clear_cache, None, self.clear_message, **quiet)


def _from_assets(name: str, value: Any, server_functions: list[Any] | None = None) -> gr.HTML:
    return gr.HTML(
        value,
        html_template=asset(f"{name}.html"),
        js_on_load=asset(f"{name}.js"),
        apply_default_css=False,
        server_functions=server_functions,
        elem_id=name,
    )


def _pull_of(does: PageHandlers) -> Any:
    # Gradio marks server functions with an attribute, which a bound method cannot take.
    def pull(request: list[Any]) -> dict[str, Any]:
        return does.pull(request)

    return pull


def _slider(label: str, value: float, low: float, high: float, step: float, info: str) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, info=info)


def _shown_if(wanted: bool) -> Any:
    return gr.update(visible=wanted)
