"""A stored voice as one small JSON object."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from backend.core.errors import VoiceStorageError
from backend.service.voice_index import StoredReference, StoredVoice
from backend.service.voice_rules import VoiceDraft, voice_key

RECORDS = "records"
RECORD_VERSION = 1


def record_name(voice_name: str) -> str:
    """Give the object of a voice's name: whoever writes the same name writes the same object."""
    return f"{RECORDS}/{hashlib.sha256(voice_key(voice_name).encode()).hexdigest()}.json"


def pack_record(voice: StoredVoice, change: int) -> bytes:
    """Write a voice down.

    Args:
        voice: The voice.
        change: Grows with every change of it.
    """
    content = {
        "version": RECORD_VERSION,
        "change": change,
        "id": voice.id,
        **asdict(voice.draft),
        "created_at": voice.created_at,
        "updated_at": voice.updated_at,
        "references": [asdict(reference) for reference in voice.references],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def read_record(content: bytes, name: str) -> tuple[StoredVoice, int]:
    """Read what ``pack_record`` wrote: the voice and the number of its change.

    Raises:
        ValueError: It is damaged.
        VoiceStorageError: A newer version of this project wrote it.
    """
    try:
        fields: dict[str, Any] = json.loads(content)
        version = int(fields["version"])
        if version > RECORD_VERSION:
            raise VoiceStorageError(
                f"{name} was written by a newer version of this project; update, or choose another "
                "VOICES_URL"
            )
        draft = VoiceDraft(
            name=fields["name"],
            language=fields["language"],
            tags=tuple(fields["tags"]),
            consent=fields["consent"],
            description=fields["description"],
        )
        references = tuple(StoredReference(**item) for item in fields["references"])
        voice = StoredVoice(
            fields["id"], draft, fields["created_at"], fields["updated_at"], references
        )
        return voice, int(fields["change"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no voice: {error!r}") from error
