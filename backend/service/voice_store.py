"""Voices on the disk: an index in SQLite and, beside it, blobs named by their hash.

Every change is one transaction of the index. Blobs are on the disk before the transaction that
names them ends, and are deleted only after the one that forgets them, so a process that is killed
at any point leaves either the old state or the new one and, at worst, blobs that belong to nobody;
``open`` deletes those.
"""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.core.errors import (
    InvalidVoiceError,
    VoiceExistsError,
    VoiceLimitError,
    VoiceNotFoundError,
)
from backend.service.codes_file import codes_from_npy, codes_to_npy
from backend.service.voice_blobs import BlobStore
from backend.service.voice_index import StoredReference, StoredVoice, VoiceIndex
from backend.service.voice_rules import MAX_REFERENCES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from backend.service.voice_keeping import NewReference
    from backend.service.voice_rules import VoiceDraft

logger = logging.getLogger(__name__)

INDEX_FILE = "index.sqlite3"
BLOBS_SUBDIR = "blobs"
_ID_BYTES = 16


class VoiceStore:
    """Keep voices on the disk: the ``VoiceKeeper`` that is used unless ``VOICES_URL`` is set.

    One thread at a time gets in. Nothing is written before the first voice is added.

    Args:
        directory: The store's own folder.
        max_voices: Most voices that are kept.
    """

    def __init__(self, directory: Path, max_voices: int) -> None:
        self._directory = directory
        self._max_voices = max_voices
        self._blobs = BlobStore(directory / BLOBS_SUBDIR)
        self._index: VoiceIndex | None = None
        self._seen_version: int | None = None
        self._lock = threading.RLock()

    def open(self) -> tuple[StoredVoice, ...]:
        """Read what is stored, and delete what a crash left over.

        Raises:
            VoiceStorageError: The index is damaged or cannot be read.
        """
        with self._lock:
            if not (self._directory / INDEX_FILE).exists():
                return ()
            index = self._opened()
            with index.writing():  # nobody adds a voice between these two lines
                count = self._blobs.collect(index.blobs())
            if count:
                logger.warning("deleted %d files of voices that were never finished", count)
            return index.voices()

    def close(self) -> None:
        """Close the index; ``open`` may follow."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            self._index = self._seen_version = None

    def all(self) -> tuple[StoredVoice, ...]:
        """Give all voices by name."""
        with self._lock:
            return () if self._index is None else self._index.voices()

    def has_news(self) -> bool:
        """Tell whether another process has changed the voices since this was asked last.

        The first answer is True when there are voices: nobody has compared yet.

        Raises:
            VoiceStorageError: The index cannot be read.
        """
        with self._lock:
            if self._index is None and not (self._directory / INDEX_FILE).exists():
                return False
            seen, self._seen_version = self._seen_version, self._opened().foreign_version()
            return seen != self._seen_version

    def add(self, draft: VoiceDraft, references: Sequence[NewReference]) -> StoredVoice:
        """Store a voice.

        Raises:
            VoiceExistsError: The name is taken.
            VoiceLimitError: As many voices are kept as may be.
            VoiceStorageError: The disk failed; nothing has changed.
        """
        if not references:
            raise ValueError("a voice needs a recording")
        voice_id = secrets.token_hex(_ID_BYTES)
        with self._changing() as index:
            if index.num_voices() >= self._max_voices:
                raise VoiceLimitError(
                    f"{self._max_voices} voices are kept, which is the limit (MAX_VOICES); delete "
                    "one first"
                )
            _refuse_taken(index, draft.name)
            index.put_voice(voice_id, draft, now_text())
            for reference in references:
                self._add_recording(index, voice_id, reference)
            return _found(index, voice_id)

    def update(self, voice_id: str, draft: VoiceDraft) -> StoredVoice:
        """Write over what is said about a voice.

        Raises:
            VoiceNotFoundError: It is gone.
            VoiceExistsError: Another voice has the name.
        """
        with self._changing() as index:
            _found(index, voice_id)
            _refuse_taken(index, draft.name, other_than=voice_id)
            index.put_voice(voice_id, draft, now_text())
            return _found(index, voice_id)

    def delete(self, voice_id: str) -> None:
        """Delete a voice with its recordings.

        Raises:
            VoiceNotFoundError: It is gone.
        """
        with self._changing() as index:
            _found(index, voice_id)
            index.delete_voice(voice_id)

    def add_reference(self, voice_id: str, reference: NewReference) -> StoredVoice:
        """Add a recording to a voice.

        Raises:
            VoiceNotFoundError: The voice is gone.
            VoiceLimitError: It has as many recordings as may be.
        """
        with self._changing() as index:
            if len(_found(index, voice_id).references) >= MAX_REFERENCES:
                raise VoiceLimitError(
                    f"a voice has at most {MAX_REFERENCES} recordings; remove one first"
                )
            self._add_recording(index, voice_id, reference)
            index.touch(voice_id, now_text())
            return _found(index, voice_id)

    def remove_reference(self, voice_id: str, idx: int) -> StoredVoice:
        """Remove a voice's recording number ``idx``, counted from 0.

        Raises:
            VoiceNotFoundError: The voice is gone, or it has no such recording.
            InvalidVoiceError: It is the last one.
        """
        with self._changing() as index:
            references = _found(index, voice_id).references
            if not 0 <= idx < len(references):
                raise VoiceNotFoundError(
                    f"the voice has no recording {idx}; they are 0 to {len(references) - 1}"
                )
            if len(references) == 1:
                raise InvalidVoiceError(
                    "references: this is the voice's only recording; add another one first, or "
                    "delete the voice"
                )
            index.delete_recording(references[idx].id)
            index.touch(voice_id, now_text())
            return _found(index, voice_id)

    def replace_codes(self, recording_id: int, codes: NDArray[np.int32], revision: str) -> None:
        """Keep the codes that another codec made of a recording; does nothing when it is gone."""
        with self._changing() as index:
            index.set_codes(recording_id, self._blobs.write(codes_to_npy(codes)), revision)

    def read_codes(self, reference: StoredReference) -> NDArray[np.int32] | None:
        """Give a recording's codes ``[K, F]``; None when they are missing or damaged."""
        content = self._blobs.read(reference.codes_sha256)
        if content is None:
            return None
        try:
            return codes_from_npy(content)
        except ValueError:
            return None

    def read_one_audio(self, reference: StoredReference) -> bytes | None:
        """Give a recording as it came; None when it was not kept or is damaged."""
        return None if reference.audio_sha256 is None else self._blobs.read(reference.audio_sha256)

    def read_audio(self, voice: StoredVoice) -> list[bytes | None]:
        """Give every recording of a voice as ``read_one_audio`` does."""
        return [self.read_one_audio(reference) for reference in voice.references]

    @contextmanager
    def _changing(self) -> Generator[VoiceIndex]:
        """Open a transaction; afterwards, whatever came of it, delete what nobody names now."""
        with self._lock:
            index = self._opened()
            before = index.blobs()
            with index.writing():
                yield index
            if before - index.blobs():
                with index.writing():  # nobody begins to use one of them meanwhile
                    for name in before - index.blobs():
                        self._blobs.delete(name)

    def _opened(self) -> VoiceIndex:
        if self._index is None:
            self._index = VoiceIndex(self._directory / INDEX_FILE)
        return self._index

    def _add_recording(self, index: VoiceIndex, voice_id: str, reference: NewReference) -> None:
        audio = None if reference.audio is None else self._blobs.write(reference.audio)
        index.add_recording(
            voice_id,
            reference.text,
            reference.duration_s,
            self._blobs.write(codes_to_npy(reference.codes)),
            reference.codec_revision,
            audio,
        )


def _found(index: VoiceIndex, voice_id: str) -> StoredVoice:
    voice = index.voice(voice_id)
    if voice is None:
        raise VoiceNotFoundError("the voice was deleted meanwhile")
    return voice


def _refuse_taken(index: VoiceIndex, name: str, other_than: str = "") -> None:
    if index.has_name(name, other_than):
        raise VoiceExistsError(
            f"there is a voice {name!r} already; choose another name, or delete it first"
        )


def now_text() -> str:
    """Give the time as it is stored: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
