"""The System tab: what the backend is and does, its caches and its counters."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.gradio_parts import QUIET, heading
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from ui.gradio_backend import BackendHandlers

LIVE_INTERVAL_S = 3.0
CACHES = [
    ("All", "all"),
    ("Recordings", "voice_codes"),
    ("Spoken texts", "semantic"),
    ("Voices' prompts", "prefix_kv"),
]


class SystemTab:
    """Build the tab inside a ``gr.Tab``; ``connect`` it once the rest of the page is there."""

    def __init__(self, does: BackendHandlers, backend_url: str) -> None:
        self.does = does
        with gr.Column(elem_classes="sheet"):
            heading("The backend")
            self.facts = gr.HTML(elem_id="system-figures")
            gr.HTML(
                f"<p class='note'>Interface for programs: <a href='{backend_url}/docs' "
                f"target='_blank' rel='noopener'>{backend_url}/docs</a></p>"
            )
        with gr.Column(elem_classes="sheet"):
            heading("What it does", "Looked at every three seconds while this tab is open.")
            self.load = gr.HTML(elem_id="load-figures")
            self.recent = gr.HTML(elem_id="recent")
        with gr.Column(elem_classes="sheet"):
            heading("Caches", "Emptied caches only cost time: the next request fills them again.")
            with gr.Row(elem_classes="tools"):
                self.cache = gr.Dropdown(
                    CACHES, value="all", label="Cache to empty", scale=0, min_width=200
                )
                self.clear_button = gr.Button("Clear it", size="sm", scale=0, min_width=120)
            self.clear_message = gr.HTML()
            with gr.Accordion("Counters, as Prometheus reads them", open=False) as self.counters:
                self.metrics = gr.Textbox(
                    show_label=False, label="Counters", lines=16, max_lines=16, elem_id="metrics"
                )

    def connect(self, tab: gr.Tab, others: list[gr.Tab], key: gr.Textbox) -> None:
        """Wire the controls.

        Args:
            tab: The tab itself.
            others: The other tabs; while one of them is shown, nothing is asked for this one.
            key: The visitor's API key.
        """
        timer = gr.Timer(LIVE_INTERVAL_S, active=False)
        live: list[Any] = [self.facts, self.load]
        gr.on([tab.select, timer.tick], self.does.system, key, live, **QUIET)
        gr.on([tab.select, timer.tick], self.does.recent, key, self.recent, **QUIET)
        tab.select(lambda: gr.Timer(active=True), None, timer, **QUIET)
        gr.on(
            [other.select for other in others],
            lambda: gr.Timer(active=False), None, timer, **QUIET,
        )  # fmt: skip
        self.counters.expand(self.does.metrics_text, key, self.metrics, **QUIET)
        self.clear_button.click(
            self.does.clear_cache, [self.cache, key], self.clear_message, **QUIET
        )
