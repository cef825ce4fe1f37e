"""``/voices``: list, add, change, hear, take away and bring voices."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response

from backend.api.bodies import MULTIPART, read_json
from backend.api.context import Context
from backend.api.forms import Form, read_form, refused_field
from backend.api.schemas import error_responses
from backend.api.streaming import while_connected
from backend.api.voice_schemas import (
    ClinicResponse,
    VoiceAddedResponse,
    VoiceDeletedResponse,
    VoiceResponse,
    VoicesResponse,
    VoiceUpdateRequest,
)
from backend.service.requests import UploadedReference
from backend.service.voice_bundle import EXTENSION, MEDIA_TYPE
from backend.service.voice_library import AddedVoice
from backend.service.voice_rules import VoiceChanges, VoiceDraft

router = APIRouter(tags=["voices"])

VoiceName = Annotated[str, Path(max_length=200, description="Name or id of a voice.")]

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_RECORDING = {
    **_BINARY,
    "description": "WAV, MP3, FLAC, Ogg, M4A and others; 5 to 30 seconds are best.",
}
_AUDIO_FIELDS: dict[str, Any] = {
    "transcript": {
        "type": "string",
        "description": "What is said in the recording. Without it the voice is copied less well.",
    },
    "keep_audio": {
        "type": "boolean",
        "default": True,
        "description": (
            "Keep the recording too, so that the voice survives a change of the model's codec."
        ),
    },
}
_VOICE_FIELDS: dict[str, Any] = {
    "audio": {"type": "array", "items": _RECORDING, "description": "One to eight recordings."},
    "name": {"type": "string", "description": "1 to 64 characters; the same in any case."},
    "language": {"type": "string", "description": "Like `en` or `pt-BR`."},
    "tags": {"type": "string", "description": "Words to search by, separated by commas."},
    "consent": {"type": "string", "description": "Who allowed the use of this voice."},
    "description": {"type": "string", "description": "One line for people."},
    **_AUDIO_FIELDS,
    "transcript": {
        "type": "array",
        "items": {"type": "string"},
        "description": "What is said in each recording: none, or as many as recordings.",
    },
}


def _form_of(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    """Describe a multipart body for OpenAPI."""
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {MULTIPART: {"schema": schema}}}}


def _file_answer(media_type: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": _BINARY}}}


@router.get("/voices", summary="List the voices", responses=error_responses(503))
async def list_voices(context: Context) -> VoicesResponse:
    """List the loaded model's voices and the added ones, by name."""
    voices = context.service.voices().voices
    return VoicesResponse(voices=[VoiceResponse.of(voice) for voice in voices])


@router.post(
    "/voices",
    summary="Add a voice",
    status_code=201,
    responses=error_responses(400, 409, 415, 422, 500, 503),
    openapi_extra=_form_of(["audio", "name"], _VOICE_FIELDS),
)
async def add_voice(request: Request, response: Response, context: Context) -> VoiceAddedResponse:
    """Add a voice made of one or several recordings, and say how good they are.

    A recording that cannot be used is refused with the reason; `POST /voices/check` tells
    beforehand.
    """
    form = await _read(request, context, *_VOICE_FIELDS)
    draft = VoiceDraft(
        name=form.required_text("name"),
        language=form.text("language") or "",
        tags=tuple(",".join(form.texts.get("tags", [])).split(",")),
        consent=form.text("consent") or "",
        description=form.text("description") or "",
    )
    added = await while_connected(
        request,
        context.service.voice_service.add(draft, _recordings(form), keep_audio=_keep_audio(form)),
    )
    response.headers["Location"] = f"/voices/{quote(added.voice.name)}"
    return _added(added)


@router.post(
    "/voices/check",
    summary="Examine a recording",
    responses=error_responses(400, 415, 422, 503),
    openapi_extra=_form_of(["audio"], {"audio": _RECORDING}),
)
async def check_recording(request: Request, context: Context) -> ClinicResponse:
    """Tell how good a recording is as a voice; nothing is kept. Up to ten minutes are examined.

    What is not audio, damaged or silent is an error; everything else is in the findings.
    """
    form = await _read(request, context, "audio")
    content = _one_file(form, "audio")
    report = await while_connected(request, context.service.voice_service.examine(content))
    return ClinicResponse.of(report)


@router.post(
    "/voices/import",
    summary="Add a voice from a file",
    status_code=201,
    responses=error_responses(400, 409, 415, 422, 500, 503),
    openapi_extra=_form_of(
        ["file"],
        {
            "file": {**_BINARY, "description": "What `GET /voices/{name}/export` gave."},
            "name": {"type": "string", "description": "Another name than the one in the file."},
        },
    ),
)
async def import_voice(request: Request, response: Response, context: Context) -> VoiceResponse:
    """Add a voice that was exported, here or elsewhere. Its hashes are checked."""
    form = await _read(request, context, "file", "name")
    voice = await while_connected(
        request,
        context.service.voice_service.import_bundle(_one_file(form, "file"), form.text("name")),
    )
    response.headers["Location"] = f"/voices/{quote(voice.name)}"
    return VoiceResponse.of(voice)


@router.get("/voices/{name}", summary="Describe a voice", responses=error_responses(404, 503))
async def get_voice(name: VoiceName, context: Context) -> VoiceResponse:
    """Describe one voice."""
    return VoiceResponse.of(context.service.voices().find(name))


@router.patch(
    "/voices/{name}",
    summary="Change a voice",
    responses=error_responses(400, 403, 404, 409, 422, 500, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": VoiceUpdateRequest.model_json_schema()}},
        }
    },
)
async def update_voice(name: VoiceName, request: Request, context: Context) -> VoiceResponse:
    """Give a voice another name, or change what is said about it."""
    body = await read_json(request, VoiceUpdateRequest)
    changes = VoiceChanges(
        name=body.name,
        language=body.language,
        tags=None if body.tags is None else tuple(body.tags),
        consent=body.consent,
        description=body.description,
    )
    return VoiceResponse.of(await context.service.voice_service.update(name, changes))


@router.delete(
    "/voices/{name}",
    summary="Delete a voice",
    responses=error_responses(403, 404, 500, 503),
)
async def delete_voice(name: VoiceName, context: Context) -> VoiceDeletedResponse:
    """Delete a voice with its recordings."""
    voice = await context.service.voice_service.delete(name)
    return VoiceDeletedResponse(id=voice.id, name=voice.name)


@router.post(
    "/voices/{name}/references",
    summary="Add a recording to a voice",
    status_code=201,
    responses=error_responses(400, 403, 404, 409, 415, 422, 500, 503),
    openapi_extra=_form_of(["audio"], {"audio": _RECORDING, **_AUDIO_FIELDS}),
)
async def add_reference(name: VoiceName, request: Request, context: Context) -> VoiceAddedResponse:
    """Add one more recording of the same person to a voice."""
    form = await _read(request, context, "audio", *_AUDIO_FIELDS)
    recording = UploadedReference(_one_file(form, "audio"), form.text("transcript") or "")
    added = await while_connected(
        request,
        context.service.voice_service.add_reference(name, recording, keep_audio=_keep_audio(form)),
    )
    return _added(added)


@router.delete(
    "/voices/{name}/references/{idx}",
    summary="Remove a recording from a voice",
    responses=error_responses(400, 403, 404, 422, 500, 503),
)
async def remove_reference(
    name: VoiceName,
    idx: Annotated[int, Path(ge=0, le=1000, description="Counted from 0.")],
    context: Context,
) -> VoiceResponse:
    """Remove one recording; the last one stays as long as the voice does."""
    return VoiceResponse.of(await context.service.voice_service.remove_reference(name, idx))


@router.get(
    "/voices/{name}/preview",
    summary="Hear a voice",
    response_class=Response,
    responses={
        200: _file_answer("audio/wav", "The voice's first recording as the model hears it."),
        **error_responses(404, 409, 429, 503),
    },
)
async def preview_voice(name: VoiceName, request: Request, context: Context) -> Response:
    """Give up to 15 seconds of a voice's first recording, decoded from its codes."""
    sound = await while_connected(request, context.service.voice_service.preview(name))
    return Response(sound, media_type="audio/wav")


@router.get(
    "/voices/{name}/export",
    summary="Save a voice as a file",
    response_class=Response,
    responses={
        200: _file_answer(MEDIA_TYPE, "One file for `POST /voices/import`."),
        **error_responses(404, 409, 503),
    },
)
async def export_voice(
    name: VoiceName,
    request: Request,
    context: Context,
    include_audio: Annotated[
        bool,
        Query(description="Put kept recordings in, so that servers with another codec can use it."),
    ] = False,
) -> Response:
    """Give a voice as one portable file."""
    voice = context.service.voices().find(name)
    content = await while_connected(
        request,
        context.service.voice_service.export_bundle(voice.id, include_audio=include_audio),
    )
    plain = "".join(char if char.isascii() and char.isalnum() else "_" for char in voice.name)
    exact = quote(voice.name + EXTENSION, safe="")
    disposition = f"attachment; filename=\"{plain}{EXTENSION}\"; filename*=UTF-8''{exact}"
    return Response(content, media_type=MEDIA_TYPE, headers={"Content-Disposition": disposition})


async def _read(request: Request, context: Context, *known: str) -> Form:
    form = await read_form(request, context.settings.max_upload_mb << 20)
    for name in form.unknown(*known):
        raise refused_field(name, f"is not a known field; the fields are {', '.join(known)}")
    return form


def _recordings(form: Form) -> list[UploadedReference]:
    contents = form.files.get("audio", [])
    if not contents:
        raise refused_field("audio", "is required: a recording of the voice, as a file")
    transcripts = form.texts.get("transcript", [])
    if transcripts and len(transcripts) != len(contents):
        raise refused_field(
            "transcript",
            f"there are {len(transcripts)} for {len(contents)} recordings; send one for each in "
            "the same order, or none",
        )
    texts = transcripts or [""] * len(contents)
    return [UploadedReference(*pair) for pair in zip(contents, texts, strict=True)]


def _one_file(form: Form, field: str) -> bytes:
    contents = form.files.get(field, [])
    if len(contents) != 1:
        raise refused_field(field, f"must be one file that is not empty, got {len(contents)}")
    return contents[0]


def _keep_audio(form: Form) -> bool:
    value = (form.text("keep_audio") or "true").strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise refused_field("keep_audio", f"must be true or false, got {value[:60]!r}")
    return value in ("true", "1")


def _added(added: AddedVoice) -> VoiceAddedResponse:
    return VoiceAddedResponse(
        voice=VoiceResponse.of(added.voice),
        clinic=[ClinicResponse.of(report) for report in added.reports],
    )
