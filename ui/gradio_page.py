"""The Gradio page: its tabs and what they share."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.assets import asset
from ui.files import FileShelf
from ui.gradio_backend import BackendHandlers
from ui.gradio_parts import QUIET, from_assets
from ui.gradio_speak import SpeakTab
from ui.gradio_system import SystemTab
from ui.gradio_views import NO_MARKERS
from ui.gradio_voices import VoicesTab
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from pathlib import Path

    from ui.client import BackendClient

HEALTH_INTERVAL_S = 5.0


def build_page(client: BackendClient, files: Path) -> gr.Blocks:
    """Build the page. Nothing is asked of the backend before a visitor comes.

    Args:
        client: Of the backend.
        files: Folder for the files that are offered for download.
    """
    return _Page(client, FileShelf(files)).blocks


class _Page:
    """Builds the components, then connects them."""

    def __init__(self, client: BackendClient, files: FileShelf) -> None:
        self.does = BackendHandlers(client)
        with gr.Blocks(
            title="Fish Speech", analytics_enabled=False, delete_cache=(3600, 24 * 3600)
        ) as self.blocks:
            self._header()
            with gr.Tabs(elem_id="pages"):
                with gr.Tab("Speak", id="speak") as speak_tab:
                    self.speak = SpeakTab(client, files)
                with gr.Tab("Voices", id="voices") as voices_tab:
                    voices = VoicesTab(client, files)
                with gr.Tab("Emotions", id="guide") as guide_tab:
                    self.guide = from_assets("guide", NO_MARKERS)
                with gr.Tab("System", id="system") as system_tab:
                    system = SystemTab(self.does, client.base_url)
            self.speak.connect(self.key)
            voices.connect(voices_tab, self.key, self.speak.voice)
            system.connect(system_tab, [speak_tab, voices_tab, guide_tab], self.key)
            self._connect_backend_state()

    def _header(self) -> None:
        with gr.Row(elem_id="masthead"):
            gr.HTML(asset("masthead.html"), elem_id="brand")
            with gr.Row(elem_id="masthead-side"):
                self.health = gr.HTML(elem_id="health")
                from_assets("theme", "")
        self.key = gr.Textbox(
            label="API key",
            info="The backend asks for one. It stays in this tab.",
            type="password",
            max_lines=1,
            visible=False,
            elem_id="api-key",
        )

    def _connect_backend_state(self) -> None:
        seen = gr.State(None)
        voice = self.speak.voice
        shown: list[Any] = [self.health, voice, self.speak.markers, self.guide, self.key, seen]
        gr.on(
            [self.blocks.load, gr.Timer(HEALTH_INTERVAL_S).tick, self.key.submit, self.key.blur],
            self.does.refresh, [voice, self.key, seen], shown, **QUIET,
        )  # fmt: skip
