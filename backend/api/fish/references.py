"""``/v1/references/*``: the voice library as the official local server has it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from backend.api.bodies import JSON, MULTIPART
from backend.api.context import Context
from backend.api.fish.bodies import MSGPACK, read_body, reply
from backend.api.forms import read_form, refused_field
from backend.service.requests import UploadedReference
from backend.service.voice_rules import VoiceChanges, VoiceDraft

router = APIRouter(tags=["Fish dialect"])

_ADD_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["id", "audio", "text"],
    "properties": {
        "id": {"type": "string", "description": "The voice's name; send it as `reference_id`."},
        "audio": {"type": "string", "format": "binary", "description": "Best 5 to 30 s."},
        "text": {"type": "string", "description": "What is said in it."},
    },
}
_ANSWER = {
    "description": "In JSON where the client accepts or sends JSON, else in msgpack.",
    "content": {
        kind: {
            "schema": {
                "type": "object",
                "required": ["success", "message"],
                "properties": {
                    "success": {"type": "boolean"},
                    "message": {"type": "string"},
                    "reference_id": {"type": "string"},
                    "reference_ids": {"type": "array", "items": {"type": "string"}},
                },
            }
        }
        for kind in (JSON, MSGPACK)
    },
}


class DeleteBody(BaseModel):
    """Which voice to delete."""

    reference_id: str


class UpdateBody(BaseModel):
    """Which voice to rename, and how."""

    old_reference_id: str
    new_reference_id: str


def _body_of(schema: type[BaseModel]) -> dict[str, Any]:
    content = {kind: {"schema": schema.model_json_schema()} for kind in (JSON, MSGPACK)}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/references/add",
    summary="Add a voice (local Fish Speech)",
    response_class=Response,
    responses={200: _ANSWER, 400: {}, 409: {}, 415: {}, 503: {}},
    openapi_extra={
        "requestBody": {"required": True, "content": {MULTIPART: {"schema": _ADD_FORM}}}
    },
)
async def add_reference(request: Request, context: Context) -> Response:
    """Add a voice made of one recording and what is said in it."""
    form = await read_form(request, context.settings.max_upload_mb << 20)
    contents = form.files.get("audio", [])
    if len(contents) != 1:
        raise refused_field("audio", f"must be one file, got {len(contents)}")
    draft = VoiceDraft(name=form.required_text("id"))
    recording = UploadedReference(contents[0], form.required_text("text"))
    added = await context.service.voice_service.add(draft, [recording])
    return _done(request, f"the voice {added.voice.name!r} was added", added.voice.name)


@router.get(
    "/v1/references/list",
    summary="List the voices (local Fish Speech)",
    response_class=Response,
    responses={200: _ANSWER, 503: {}},
)
async def list_references(request: Request, context: Context) -> Response:
    """List the names of all voices that can speak."""
    voices = await context.service.voice_service.list_voices()
    names = [voice.name for voice in voices if not voice.problem]
    content = {"success": True, "reference_ids": names, "message": f"{len(names)} voices"}
    return reply(request, content)


@router.delete(
    "/v1/references/delete",
    summary="Delete a voice (local Fish Speech)",
    response_class=Response,
    responses={200: _ANSWER, 400: {}, 403: {}, 404: {}, 415: {}, 503: {}},
    openapi_extra=_body_of(DeleteBody),
)
async def delete_reference(request: Request, context: Context) -> Response:
    """Delete an added voice; those that came with the model stay."""
    body = await read_body(request, DeleteBody)
    voice = await context.service.voice_service.delete(body.reference_id)
    return _done(request, f"the voice {voice.name!r} was deleted", voice.name)


@router.post(
    "/v1/references/update",
    summary="Rename a voice (local Fish Speech)",
    response_class=Response,
    responses={200: _ANSWER, 400: {}, 403: {}, 404: {}, 409: {}, 415: {}, 503: {}},
    openapi_extra=_body_of(UpdateBody),
)
async def update_reference(request: Request, context: Context) -> Response:
    """Give an added voice another name."""
    body = await read_body(request, UpdateBody)
    changes = VoiceChanges(name=body.new_reference_id)
    voice = await context.service.voice_service.update(body.old_reference_id, changes)
    return _done(request, f"the voice is called {voice.name!r} now", voice.name)


def _done(request: Request, message: str, reference_id: str) -> Response:
    return reply(request, {"success": True, "message": message, "reference_id": reference_id})
