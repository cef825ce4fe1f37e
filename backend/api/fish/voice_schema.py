"""A voice as Fish Audio writes it down."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import Request

from backend.api.context import ApiContext
from backend.service.voices import Voice

AUTHOR_ID = "self-hosted"
_AUTHOR = {"_id": AUTHOR_ID, "nickname": "this server", "avatar": ""}
_NOT_COUNTED = {"like_count": 0, "mark_count": 0, "shared_count": 0, "task_count": 0}


def voice_document(voice: Voice, context: ApiContext, request: Request) -> dict[str, Any]:
    """Write a voice in Fish Audio's form; what is not kept here has its neutral value.

    Args:
        voice: Of the library.
        context: Tells the age of voices that came with the model.
        request: Tells the address under which recordings can be heard.
    """
    started = datetime.fromtimestamp(context.started_at, UTC).isoformat()
    audio = f"{request.base_url}voices/{voice.id}/preview"
    return {
        "_id": voice.id,
        "type": "tts",
        "title": voice.name,
        "description": voice.description,
        "cover_image": "",
        "train_mode": "fast",
        "state": "failed" if voice.problem else "trained",
        "tags": list(voice.tags),
        "samples": [
            {
                "title": f"{voice.name} {number}",
                "text": reference.text,
                "task_id": f"{voice.id}-{number}",
                "audio": audio,
            }
            for number, reference in enumerate(voice.references, 1)
        ],
        "created_at": voice.created_at or started,
        "updated_at": voice.updated_at or started,
        "languages": [voice.language] if voice.language else [],
        "visibility": "public" if voice.is_builtin else "private",
        "lock_visibility": True,
        **_NOT_COUNTED,
        "liked": False,
        "marked": False,
        "author": _AUTHOR,
    }
