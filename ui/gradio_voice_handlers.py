"""What the Voices tab of the Gradio page does."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ui import cards
from ui.connection import BackendError
from ui.files import address_of
from ui.gradio_controls import read_recording
from ui.gradio_views import SAME, voice_choices
from ui.quiet_gradio import gr
from ui.voice_cards import clinic_html, voice_html
from ui.voice_client import VoiceNotes, require_notes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ui.client import BackendClient
    from ui.files import FileShelf
    from ui.speech import Recording


class VoiceView(NamedTuple):
    """New values of the outputs that show one voice, in the order in which the tab lists them."""

    card: Any = SAME
    message: Any = SAME
    name: Any = SAME
    language: Any = SAME
    description: Any = SAME
    tags: Any = SAME
    save: Any = SAME
    delete: Any = SAME


class LibraryView(NamedTuple):
    """New values after the library has changed: its list, the Speak tab's list, what happened."""

    chosen: Any
    speak_choice: Any
    message: Any


class VoiceHandlers:
    """The voice library; serves all visitors.

    Args:
        client: Of the backend.
        files: Where sounds and exported voices are offered.
    """

    def __init__(self, client: BackendClient, files: FileShelf) -> None:
        self._client = client
        self._files = files

    def show(self, chosen: str | None, key: str | None) -> VoiceView:
        """Show a voice and what can be done with it."""
        if not chosen:
            return VoiceView(card=cards.message_html("No voice is chosen."), message="")
        try:
            voice = self._client.with_key(key).library.get(chosen)
        except BackendError as error:
            return VoiceView(card="", message=_refused(error))
        can_change = gr.update(interactive=not voice.is_builtin)
        return VoiceView(
            card=voice_html(voice),
            message="",
            name=voice.name,
            language=voice.language,
            description=voice.description,
            tags=", ".join(voice.tags),
            save=can_change,
            delete=can_change,
        )

    def list_again(self, chosen: str | None, speaking: str | None, key: str | None) -> LibraryView:
        """List the voices as they are now.

        Args:
            chosen: The voice that is looked at.
            speaking: The voice that is chosen on the Speak tab.
            key: The visitor's API key.
        """
        return self._after(key, chosen, speaking, "")

    def preview(self, chosen: str | None, key: str | None) -> str:
        """Play the voice's own recording."""

        def listen(client: BackendClient, name: str) -> str:
            file = self._files.put("preview.wav", client.library.preview(name))
            return (
                f'<audio class="preview" controls autoplay src="{address_of(file)}" '
                'aria-label="The recording of the voice"></audio>'
            )

        return self._with_voice(chosen, key, listen)

    def export(self, chosen: str | None, key: str | None) -> str:
        """Offer the voice as one file."""

        def pack(client: BackendClient, name: str) -> str:
            safe = re.sub(r"[^\w-]+", "-", name).strip("-") or "voice"
            file = self._files.put(f"{safe}.fishvoice", client.library.export(name))
            return cards.download_html(address_of(file), file.name, f"Download {file.name}")

        return self._with_voice(chosen, key, pack)

    def save(
        self,
        chosen: str | None,
        speaking: str | None,
        name: str,
        language: str,
        description: str,
        tags: str,
        key: str | None,
    ) -> LibraryView:
        """Rename a voice, or change what is said about it."""
        notes = VoiceNotes(
            name=name.strip(), language=language.strip(), description=description, tags=tags
        )
        return self._changing(
            key,
            lambda client: client.library.change(_required(chosen), notes),
            notes.name,
            notes.name if speaking == chosen else speaking,
            "Saved.",
        )

    def delete(
        self, chosen: str | None, speaking: str | None, is_sure: bool, key: str | None
    ) -> LibraryView:
        """Delete a voice."""
        if not is_sure:
            words = "Tick the box first: a deleted voice is gone unless you have exported it."
            return LibraryView(SAME, SAME, cards.message_html(words, "error"))
        return self._changing(
            key,
            lambda client: client.library.delete(_required(chosen)),
            None,
            speaking,
            f"{chosen} is deleted.",
        )

    def check(self, recording: str | None, key: str | None) -> str:
        """Say how good a recording is."""
        try:
            report = self._client.with_key(key).library.check(_required_recording(recording))
        except BackendError as error:
            return _refused(error)
        return clinic_html(report)

    def add(
        self,
        recording: str | None,
        transcript: str,
        name: str,
        language: str,
        description: str,
        consent: str,
        speaking: str | None,
        key: str | None,
    ) -> tuple[str, Any, Any]:
        """Add a voice; gives the clinic's report, and the lists."""
        notes = VoiceNotes(
            name=name.strip(),
            language=language.strip(),
            description=description.strip(),
            consent=consent.strip(),
        )
        try:
            require_notes(notes)
            added = self._client.with_key(key).library.add(
                notes, _required_recording(recording), transcript
            )
        except BackendError as error:
            return _refused(error), SAME, SAME
        reports = "".join(clinic_html(report) for report in added.clinic)
        view = self._after(key, added.voice.name, speaking, "")
        said = cards.message_html(f"{added.voice.name} is added and can be chosen.", "good")
        return said + reports, view.chosen, view.speak_choice

    def restore(self, path: str | None, speaking: str | None, key: str | None) -> LibraryView:
        """Add a voice from an exported file."""
        recording = read_recording(path)
        if recording is None:
            return LibraryView(SAME, SAME, cards.message_html("Choose a file first.", "error"))
        try:
            name = self._client.with_key(key).library.restore(recording.name, recording.content)
        except BackendError as error:
            return LibraryView(SAME, SAME, _refused(error))
        return self._after(key, name, speaking, f"{name} is imported and can be chosen.")

    def _with_voice(
        self, chosen: str | None, key: str | None, make: Callable[[BackendClient, str], str]
    ) -> str:
        try:
            return make(self._client.with_key(key), _required(chosen))
        except BackendError as error:
            return _refused(error)

    def _changing(
        self,
        key: str | None,
        change: Callable[[BackendClient], None],
        chosen: str | None,
        speaking: str | None,
        words: str,
    ) -> LibraryView:
        try:
            change(self._client.with_key(key))
        except BackendError as error:
            return LibraryView(SAME, SAME, _refused(error))
        return self._after(key, chosen, speaking, words)

    def _after(
        self, key: str | None, chosen: str | None, speaking: str | None, words: str
    ) -> LibraryView:
        try:
            voices = self._client.with_key(key).voices()
        except BackendError as error:
            return LibraryView(SAME, SAME, _refused(error))
        said = cards.message_html(words, "good") if words else SAME
        return LibraryView(voice_choices(voices, chosen), voice_choices(voices, speaking), said)


def _required(chosen: str | None) -> str:
    if not chosen:
        raise BackendError("Choose a voice first.")
    return chosen


def _required_recording(path: str | None) -> Recording:
    recording = read_recording(path)
    if recording is None:
        raise BackendError("Choose a recording first, or speak one.")
    return recording


def _refused(error: BackendError) -> str:
    return cards.message_html(error.message, "error")
