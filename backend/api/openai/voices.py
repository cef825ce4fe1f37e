"""``/v1/audio/voices``: the voice library as OpenAI's clients see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from backend.api.bodies import MULTIPART
from backend.api.context import ApiContext, Context
from backend.api.forms import read_form, refused_field
from backend.api.openai.schemas import VoiceDeleted, VoiceList, VoiceObject
from backend.api.streaming import with_warnings
from backend.core.errors import NotOfferedError
from backend.service.requests import UploadedReference
from backend.service.voice_rules import VoiceDraft
from backend.service.voices import Voice

router = APIRouter(tags=["OpenAI dialect"])

_AUDIO_FIELDS = ("audio_sample", "audio")
_TEXT_FIELDS = ("ref_text", "text")
_KNOWN_FIELDS = (*_AUDIO_FIELDS, *_TEXT_FIELDS, "name", "consent", "language", "type")
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["audio_sample", "name"],
    "properties": {
        "audio_sample": {
            "type": "string",
            "format": "binary",
            "description": "A recording of the voice, best 5 to 30 s. `audio` means the same.",
        },
        "name": {"type": "string", "description": "What requests say to get this voice."},
        "consent": {"type": "string", "description": "Who allowed the use of this voice."},
        "ref_text": {"type": "string", "description": "What is said in the recording."},
        "language": {"type": "string", "description": "Like `en`."},
    },
}


@router.get("/v1/audio/voices", summary="List the voices (OpenAI)", responses={503: {}})
async def list_voices(context: Context) -> VoiceList:
    """List the voices that can speak, the model's own and the added ones."""
    voices = await context.service.voice_service.list_voices()
    objects = [_as_object(voice, context) for voice in voices if not voice.problem]
    return VoiceList(data=objects, voices=objects)


@router.get("/v1/audio/voices/{voice_id}", summary="Describe a voice (OpenAI)", responses={503: {}})
async def get_voice(voice_id: str, context: Context) -> VoiceObject:
    """Describe one voice, by id or name."""
    return _as_object(await context.service.voice_service.get(voice_id), context)


@router.post(
    "/v1/audio/voices",
    summary="Add a voice (OpenAI)",
    response_model=VoiceObject,
    responses={400: {}, 409: {}, 415: {}, 501: {}, 503: {}},
    openapi_extra={
        "requestBody": {"required": True, "content": {MULTIPART: {"schema": _FORM}}},
    },
)
async def add_voice(request: Request, context: Context) -> JSONResponse:
    """Add a voice made of one recording."""
    form = await read_form(request, context.settings.max_upload_mb << 20)
    if form.text("type") == "prompt" or form.text("prompt"):
        raise NotOfferedError(
            "voices are made of recordings here, not of prompts; send audio_sample"
        )
    recordings = [item for name in _AUDIO_FIELDS for item in form.files.get(name, [])]
    if len(recordings) != 1:
        raise refused_field(_AUDIO_FIELDS[0], f"must be one file, got {len(recordings)}")
    draft = VoiceDraft(
        name=form.required_text("name"),
        consent=form.text("consent") or "",
        language=form.text("language") or "",
    )
    recording = UploadedReference(recordings[0], form.text(*_TEXT_FIELDS) or "")
    added = await context.service.voice_service.add(draft, [recording])
    hints = [item.message for report in added.reports for item in report.findings]
    unknown = form.unknown(*_KNOWN_FIELDS)
    if unknown:
        hints.append(f"fields without effect: {', '.join(map(ascii, unknown))}")
    return JSONResponse(
        _as_object(added.voice, context).model_dump(), headers=with_warnings({}, hints)
    )


@router.delete(
    "/v1/audio/voices/{voice_id}", summary="Delete a voice (OpenAI)", responses={403: {}, 503: {}}
)
async def delete_voice(voice_id: str, context: Context) -> VoiceDeleted:
    """Delete an added voice; those that came with the model stay."""
    voice = await context.service.voice_service.delete(voice_id)
    return VoiceDeleted(id=voice.id)


def _as_object(voice: Voice, context: ApiContext) -> VoiceObject:
    created = context.started_at
    if voice.created_at:
        created = datetime.fromisoformat(voice.created_at).timestamp()
    return VoiceObject(id=voice.id, name=voice.name, created_at=int(created))
