"""The voice library of the backend: add, look at, change, take along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ui.connection import BackendError, parsed, segment
from ui.voice_replies import AddedVoice, ClinicReport, VoiceDetails

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ui.connection import Connection
    from ui.speech import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceNotes:
    """What is said about a voice; None leaves it as it is.

    Attributes:
        name: What a request says.
        language: Like ``en`` or ``pt-BR``.
        tags: Words to search by, separated by commas.
        consent: Who allowed the use of this voice.
        description: One line for people.
    """

    name: str | None = None
    language: str | None = None
    tags: str | None = None
    consent: str | None = None
    description: str | None = None

    def fields(self) -> dict[str, str]:
        """Give what was said, by the backend's names."""
        given = {
            "name": self.name,
            "language": self.language,
            "tags": self.tags,
            "consent": self.consent,
            "description": self.description,
        }
        return {name: value for name, value in given.items() if value is not None}

    def changes(self) -> dict[str, Any]:
        """Give what was said as the body of a change, tags as a list."""
        said: dict[str, Any] = self.fields()
        if self.tags is not None:
            said["tags"] = [tag.strip() for tag in self.tags.split(",") if tag.strip()]
        return said


def require_notes(notes: VoiceNotes) -> None:
    """See that a new voice has what the pages ask for.

    Raises:
        BackendError: It has no name, or nobody allowed its use.
    """
    if not (notes.name or "").strip():
        raise BackendError("Give the voice a name.")
    if not (notes.consent or "").strip():
        raise BackendError("Say who allowed the use of this voice, e.g. 'my own voice'.")


class VoiceClient:
    """Work on the voices.

    Args:
        connection: To the backend.
    """

    def __init__(self, connection: Connection) -> None:
        self._to = connection

    def check(self, recording: Recording) -> ClinicReport:
        """Examine a recording without keeping it."""
        response = self._to.ask("POST", "/voices/check", files=_files(recording))
        return parsed(ClinicReport, response)

    def add(self, notes: VoiceNotes, recording: Recording, transcript: str) -> AddedVoice:
        """Add a voice from a recording and what is said in it."""
        fields = {**notes.fields(), **_transcript(transcript)}
        response = self._to.ask("POST", "/voices", data=fields, files=_files(recording))
        return parsed(AddedVoice, response)

    def add_recording(self, name: str, recording: Recording, transcript: str) -> AddedVoice:
        """Give a voice one more recording."""
        response = self._to.ask(
            "POST",
            f"/voices/{segment(name)}/references",
            data=_transcript(transcript),
            files=_files(recording),
        )
        return parsed(AddedVoice, response)

    def get(self, name: str) -> VoiceDetails:
        """Give all that is known of one voice."""
        return self._to.get(VoiceDetails, f"/voices/{segment(name)}")

    def change(self, name: str, notes: VoiceNotes) -> None:
        """Rename a voice or change what is said about it."""
        self._to.ask("PATCH", f"/voices/{segment(name)}", json=notes.changes())

    def delete(self, name: str) -> None:
        """Delete a voice and its recordings."""
        self._to.ask("DELETE", f"/voices/{segment(name)}")

    def preview(self, name: str) -> bytes:
        """Give a short WAV file of the voice's own recording."""
        return self._to.ask("GET", f"/voices/{segment(name)}/preview").content

    def export(self, name: str, *, include_audio: bool = True) -> bytes:
        """Give the voice as one file that ``restore`` reads."""
        params = {"include_audio": str(include_audio).lower()}
        return self._to.ask("GET", f"/voices/{segment(name)}/export", params=params).content

    def restore(self, file_name: str, content: bytes, name: str | None = None) -> str:
        """Add a voice from an exported file.

        Args:
            file_name: Of the file.
            content: Of the file.
            name: Another name for it.

        Returns:
            The voice's name.
        """
        fields = {"name": name} if name else {}
        response = self._to.ask(
            "POST", "/voices/import", data=fields, files={"file": (file_name, content)}
        )
        return parsed(VoiceDetails, response).name


def _files(recording: Recording) -> Mapping[str, tuple[str, bytes]]:
    return {"audio": (recording.name, recording.content)}


def _transcript(words: str) -> dict[str, str]:
    return {"transcript": words.strip()} if words.strip() else {}
