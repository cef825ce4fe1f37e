"""The index of stored voices: one SQLite file in WAL mode. Blobs are named here, not kept here."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.core.errors import VoiceStorageError
from backend.service.voice_rules import VoiceDraft, voice_key

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE voices (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    language TEXT NOT NULL,
    tags TEXT NOT NULL,
    consent TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE TABLE recordings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    voice_id TEXT NOT NULL REFERENCES voices (id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    duration_s REAL NOT NULL,
    codes_sha256 TEXT NOT NULL,
    codec_revision TEXT NOT NULL,
    audio_sha256 TEXT
);
CREATE INDEX recordings_of_voice ON recordings (voice_id, id);
"""


@dataclass(frozen=True, slots=True)
class StoredReference:
    """One recording of a stored voice.

    Attributes:
        id: Never used for another recording.
        text: What is said in it.
        duration_s: Its length.
        codes_sha256: Blob of its codes.
        codec_revision: Names the codec that wrote them.
        audio_sha256: Blob of the recording itself, where it is kept.
    """

    id: int
    text: str
    duration_s: float
    codes_sha256: str
    codec_revision: str
    audio_sha256: str | None

    @property
    def has_audio(self) -> bool:
        """Whether the recording itself is kept."""
        return self.audio_sha256 is not None


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """One stored voice.

    Attributes:
        id: 32 hexadecimal digits.
        draft: What is said about it.
        created_at: UTC, ISO 8601.
        updated_at: As ``created_at``.
        references: Its recordings in the order in which they came.
    """

    id: str
    draft: VoiceDraft
    created_at: str
    updated_at: str
    references: tuple[StoredReference, ...]


class VoiceIndex:
    """One connection to the index. The caller lets one thread in at a time.

    Args:
        path: The file; made, with its folder, when it is not there.

    Raises:
        VoiceStorageError: It cannot be opened, is damaged, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the only right to write, other processes included, and commit at the end.

        Raises:
            VoiceStorageError: The index cannot be written.
        """
        with _storage_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def voices(self) -> tuple[StoredVoice, ...]:
        """Give all voices by name."""
        with _storage_errors(self._path):
            rows = self._connection.execute("SELECT * FROM voices ORDER BY key").fetchall()
            recordings = self._connection.execute("SELECT * FROM recordings ORDER BY id").fetchall()
        by_voice: dict[str, list[StoredReference]] = {}
        for row in recordings:
            by_voice.setdefault(row["voice_id"], []).append(_reference_of(row))
        return tuple(_voice_of(row, by_voice.get(row["id"], [])) for row in rows)

    def foreign_version(self) -> int:
        """Give a number that changes when another process has changed the index."""
        with _storage_errors(self._path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def voice(self, voice_id: str) -> StoredVoice | None:
        """Give one voice, or None."""
        with _storage_errors(self._path):
            row = self._connection.execute(
                "SELECT * FROM voices WHERE id = ?", (voice_id,)
            ).fetchone()
            recordings = self._connection.execute(
                "SELECT * FROM recordings WHERE voice_id = ? ORDER BY id", (voice_id,)
            ).fetchall()
        return None if row is None else _voice_of(row, [_reference_of(item) for item in recordings])

    def num_voices(self) -> int:
        """Count the voices."""
        with _storage_errors(self._path):
            return self._connection.execute("SELECT count(*) FROM voices").fetchone()[0]

    def has_name(self, name: str, other_than: str = "") -> bool:
        """Tell whether a voice with another id than ``other_than`` has this name."""
        found = self._connection.execute(
            "SELECT 1 FROM voices WHERE key = ? AND id <> ?", (voice_key(name), other_than)
        )
        return found.fetchone() is not None

    def blobs(self) -> set[str]:
        """Give the names of all blobs that belong to a voice."""
        with _storage_errors(self._path):
            rows = self._connection.execute(
                "SELECT codes_sha256 FROM recordings"
                " UNION SELECT audio_sha256 FROM recordings WHERE audio_sha256 IS NOT NULL"
            ).fetchall()
        return {row[0] for row in rows}

    def put_voice(self, voice_id: str, draft: VoiceDraft, now: str) -> None:
        """Add a voice, or write over what is said about it. Inside ``writing``."""
        values = (
            voice_id,
            voice_key(draft.name),
            draft.name,
            draft.language,
            json.dumps(draft.tags, ensure_ascii=False),
            draft.consent,
            draft.description,
            now,
            now,
        )
        self._connection.execute(
            "INSERT INTO voices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "key = excluded.key, name = excluded.name, language = excluded.language, "
            "tags = excluded.tags, consent = excluded.consent, "
            "description = excluded.description, updated_at = excluded.updated_at",
            values,
        )

    def touch(self, voice_id: str, now: str) -> None:
        """Note that a voice was changed. Inside ``writing``."""
        self._connection.execute("UPDATE voices SET updated_at = ? WHERE id = ?", (now, voice_id))

    def delete_voice(self, voice_id: str) -> None:
        """Delete a voice and its recordings. Inside ``writing``."""
        self._connection.execute("DELETE FROM voices WHERE id = ?", (voice_id,))

    def add_recording(
        self,
        voice_id: str,
        text: str,
        duration_s: float,
        codes_sha256: str,
        codec_revision: str,
        audio_sha256: str | None,
    ) -> None:
        """Add a recording to a voice, behind its others. Inside ``writing``."""
        self._connection.execute(
            "INSERT INTO recordings (voice_id, text, duration_s, codes_sha256, codec_revision,"
            " audio_sha256) VALUES (?, ?, ?, ?, ?, ?)",
            (voice_id, text, duration_s, codes_sha256, codec_revision, audio_sha256),
        )

    def delete_recording(self, recording_id: int) -> None:
        """Delete a recording. Inside ``writing``."""
        self._connection.execute("DELETE FROM recordings WHERE id = ?", (recording_id,))

    def set_codes(self, recording_id: int, codes_sha256: str, codec_revision: str) -> None:
        """Give a recording other codes; does nothing when it is gone. Inside ``writing``."""
        self._connection.execute(
            "UPDATE recordings SET codes_sha256 = ?, codec_revision = ? WHERE id = ?",
            (codes_sha256, codec_revision, recording_id),
        )

    def _prepare(self) -> None:
        connection = self._connection
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # what was answered survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        with self.writing():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise VoiceStorageError(
                    f"{self._path} was written by a newer version of this project; update, or "
                    "choose another DATA_DIR"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _storage_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise VoiceStorageError(
            f"the index of voices {path} cannot be used ({error}); see to space and rights of "
            "DATA_DIR, or restore it from a backup"
        ) from error


def _voice_of(row: Any, references: list[StoredReference]) -> StoredVoice:
    draft = VoiceDraft(
        name=row["name"],
        language=row["language"],
        tags=tuple(json.loads(row["tags"])),
        consent=row["consent"],
        description=row["description"],
    )
    return StoredVoice(row["id"], draft, row["created_at"], row["updated_at"], tuple(references))


def _reference_of(row: Any) -> StoredReference:
    return StoredReference(
        row["id"],
        row["text"],
        row["duration_s"],
        row["codes_sha256"],
        row["codec_revision"],
        row["audio_sha256"],
    )
