"""What a place for voices can do, whatever it is made of: a folder, or an object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.core.types import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.service.voice_index import StoredReference, StoredVoice
    from backend.service.voice_rules import VoiceDraft


@dataclass(frozen=True, slots=True)
class NewReference:
    """A recording that is to be stored.

    Attributes:
        text: What is said in it.
        codes: ``[K, F]`` int32.
        codec_revision: Names the codec that wrote ``codes``.
        duration_s: Its length.
        audio: The recording as it came, where it is to be kept.
    """

    text: str
    codes: NDArray[np.int32]
    codec_revision: str
    duration_s: float
    audio: bytes | None = None

    @property
    def turn(self) -> Turn:
        """Its words and codes."""
        return Turn(self.text, self.codes)


class VoiceKeeper(Protocol):
    """Keep voices. Every method blocks; any thread may call.

    Life: made -> ``open`` -> any calls -> ``close``. Every method may raise ``VoiceStorageError``;
    then nothing has changed that anybody sees.
    """

    def open(self) -> tuple[StoredVoice, ...]:
        """Read what is stored, and delete what a crash left over."""
        ...

    def close(self) -> None:
        """Let go; ``open`` may follow."""
        ...

    def all(self) -> tuple[StoredVoice, ...]:
        """Give all voices by name."""
        ...

    def has_news(self) -> bool:
        """Tell whether another process has changed the voices since this was asked last."""
        ...

    def add(self, draft: VoiceDraft, references: Sequence[NewReference]) -> StoredVoice:
        """Store a voice.

        Raises:
            VoiceExistsError: The name is taken.
            VoiceLimitError: As many voices are kept as may be.
        """
        ...

    def update(self, voice_id: str, draft: VoiceDraft) -> StoredVoice:
        """Write over what is said about a voice.

        Raises:
            VoiceNotFoundError: It is gone.
            VoiceExistsError: Another voice has the name.
        """
        ...

    def delete(self, voice_id: str) -> None:
        """Delete a voice with its recordings.

        Raises:
            VoiceNotFoundError: It is gone.
        """
        ...

    def add_reference(self, voice_id: str, reference: NewReference) -> StoredVoice:
        """Add a recording to a voice.

        Raises:
            VoiceNotFoundError: The voice is gone.
            VoiceLimitError: It has as many recordings as may be.
        """
        ...

    def remove_reference(self, voice_id: str, idx: int) -> StoredVoice:
        """Remove a voice's recording number ``idx``, counted from 0.

        Raises:
            VoiceNotFoundError: The voice is gone, or it has no such recording.
            InvalidVoiceError: It is the last one.
        """
        ...

    def replace_codes(self, recording_id: int, codes: NDArray[np.int32], revision: str) -> None:
        """Keep the codes that another codec made of a recording; does nothing when it is gone."""
        ...

    def read_codes(self, reference: StoredReference) -> NDArray[np.int32] | None:
        """Give a recording's codes ``[K, F]``; None when they are missing or damaged."""
        ...

    def read_one_audio(self, reference: StoredReference) -> bytes | None:
        """Give a recording as it came; None when it was not kept or is damaged."""
        ...

    def read_audio(self, voice: StoredVoice) -> list[bytes | None]:
        """Give every recording of a voice as ``read_one_audio`` does."""
        ...
