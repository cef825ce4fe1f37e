"""The Voices tab: look at voices, change them, add new ones."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.gradio_parts import QUIET, heading, recording_input
from ui.gradio_voice_handlers import VoiceHandlers
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.files import FileShelf


class VoicesTab:
    """Build the tab inside a ``gr.Tab``; ``connect`` it once the rest of the page is there."""

    def __init__(self, client: BackendClient, files: FileShelf) -> None:
        self.does = VoiceHandlers(client, files)
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=6, min_width=320):
                with gr.Column(elem_classes="sheet"):
                    self._library()
                with gr.Column(elem_classes="sheet"):
                    self._changes()
            with (
                gr.Column(scale=5, min_width=300),
                gr.Column(elem_classes="sheet", elem_id="new-voice"),
            ):
                self._new_voice()

    def _library(self) -> None:
        heading("Library", "Voices of the model and those that were added here.")
        self.chosen = gr.Dropdown(
            choices=[], value=None, label="Voice to look at", elem_id="library-voice"
        )
        self.card = gr.HTML(elem_id="voice-card")
        with gr.Row(elem_classes="tools"):
            self.preview_button = _small_button("Listen")
            self.export_button = _small_button("Export")
            self.import_button = gr.UploadButton(
                "Import a voice file", size="sm", scale=0, min_width=170, file_count="single"
            )
        self.offer = gr.HTML(elem_id="voice-offer")
        self.message = gr.HTML(elem_id="voice-message")

    def _changes(self) -> None:
        with gr.Accordion("Rename, describe, delete", open=False):
            with gr.Row():
                self.name = gr.Textbox(label="Rename to", max_lines=1, min_width=140)
                self.language = gr.Textbox(
                    label="Its language", placeholder="en", max_lines=1, min_width=100
                )
            self.description = gr.Textbox(label="Its description", max_lines=1)
            self.tags = gr.Textbox(label="Tags", placeholder="calm, low", max_lines=1)
            self.save_button = _small_button("Save")
            with gr.Row(elem_classes="tools"):
                self.is_sure = gr.Checkbox(
                    label="I want to delete this voice", value=False, container=False
                )
                self.delete_button = gr.Button(
                    "Delete", variant="stop", size="sm", scale=0, min_width=110
                )

    def _new_voice(self) -> None:
        heading("Add a voice", "5 to 30 seconds of one person, without music and without echo.")
        self.recording = recording_input("new-recording")
        self.transcript = gr.Textbox(
            label="Words of the recording",
            placeholder="Word for word; the voice becomes clearer with it",
            lines=2,
        )
        with gr.Row():
            self.new_name = gr.Textbox(label="Name", max_lines=1, min_width=140)
            self.new_language = gr.Textbox(
                label="Language", placeholder="en", max_lines=1, min_width=100
            )
        self.new_description = gr.Textbox(label="Description", max_lines=1)
        self.consent = gr.Textbox(
            label="Who allowed it",
            placeholder="my own voice; or: Ada, by e-mail of 3 May",
            max_lines=1,
        )
        with gr.Row(elem_classes="tools"):
            self.check_button = _small_button("Check the recording", 170)
            self.add_button = gr.Button(
                "Add the voice", variant="primary", size="sm", scale=0, min_width=150
            )
        self.report = gr.HTML(elem_id="clinic")

    def connect(self, tab: gr.Tab, key: gr.Textbox, speak_voice: gr.Dropdown) -> None:
        """Wire the controls.

        Args:
            tab: The tab itself; choosing it lists the voices anew.
            key: The visitor's API key.
            speak_voice: The Speak tab's voices, which follow the library.
        """
        does, chosen = self.does, self.chosen
        shown: list[Any] = [
            self.card, self.offer, self.name, self.language, self.description, self.tags,
            self.save_button, self.delete_button,
        ]  # fmt: skip
        library: list[Any] = [chosen, speak_voice, self.message]
        tab.select(does.list_again, [chosen, speak_voice, key], library, **QUIET)
        chosen.change(does.show, [chosen, key], shown, **QUIET)
        self.preview_button.click(does.preview, [chosen, key], self.offer, **QUIET)
        self.export_button.click(does.export, [chosen, key], self.offer, **QUIET)
        self.import_button.upload(
            does.restore, [self.import_button, speak_voice, key], library, **QUIET
        )
        notes: list[Any] = [self.name, self.language, self.description, self.tags]
        self.save_button.click(
            does.save, [chosen, speak_voice, *notes, key], library, **QUIET
        ).success(does.show, [chosen, key], shown, **QUIET)
        self.delete_button.click(
            does.delete, [chosen, speak_voice, self.is_sure, key], library, **QUIET
        ).success(lambda: False, None, self.is_sure, **QUIET)
        self.check_button.click(does.check, [self.recording, key], self.report, **QUIET)
        self.add_button.click(
            does.add,
            [
                self.recording, self.transcript, self.new_name, self.new_language,
                self.new_description, self.consent, speak_voice, key,
            ],
            [self.report, chosen, speak_voice],
            **QUIET,
        )  # fmt: skip


def _small_button(words: str, min_width: int = 110) -> gr.Button:
    return gr.Button(words, size="sm", scale=0, min_width=min_width)
