"""``/model``: the voice library as Fish Audio's clients see it. They call a voice a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from backend.api.bodies import MULTIPART
from backend.api.context import Context
from backend.api.fish.voice_schema import AUTHOR_ID, voice_document
from backend.api.forms import Form, read_form, refused_field
from backend.api.streaming import with_warnings
from backend.service.requests import UploadedReference
from backend.service.voice_rules import VoiceChanges, VoiceDraft, voice_key
from backend.service.voices import Voice

router = APIRouter(tags=["Fish dialect"])

_USUAL = {
    "type": "tts",
    "visibility": "private",
    "train_mode": "fast",
    "enhance_audio_quality": "true",
}
"""What libraries send unasked; other values have no effect, and the answer says so."""
_KEPT = ("title", "description", "voices", "texts", "tags", "languages")
_TEXT_LIST = {"type": "array", "items": {"type": "string"}}
_FIELDS: dict[str, Any] = {
    "title": {"type": "string", "description": "The voice's name."},
    "description": {"type": "string"},
    "tags": _TEXT_LIST,
    "languages": {**_TEXT_LIST, "description": "Like `en`; the first is kept."},
}
_CREATE_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["title", "voices"],
    "properties": {
        **_FIELDS,
        "voices": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "Recordings, best 5 to 30 s each.",
        },
        "texts": {**_TEXT_LIST, "description": "What is said in them, in their order."},
    },
}


_VOICE_ANSWER: dict[str, Any] = {
    "description": "The voice.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["_id", "title", "state", "tags", "languages"],
                "properties": {
                    "_id": {"type": "string"},
                    "title": {"type": "string"},
                    "state": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "languages": {"type": "array", "items": {"type": "string"}},
                },
            }
        }
    },
}


def _form_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {MULTIPART: {"schema": schema}}}}


@router.get("/model", summary="List the voices (Fish Audio)", responses={503: {}})
async def list_models(
    request: Request,
    context: Context,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 10,
    page_number: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    title: Annotated[str, Query()] = "",
    tag: Annotated[list[str] | None, Query()] = None,
    self_only: Annotated[bool, Query(alias="self")] = False,
    author_id: Annotated[str | None, Query()] = None,
    language: Annotated[list[str] | None, Query()] = None,
    title_language: Annotated[list[str] | None, Query()] = None,
    sort_by: Annotated[Literal["task_count", "created_at", "score"], Query()] = "task_count",
) -> dict[str, Any]:
    """List voices, page by page.

    `self` leaves out those that came with the model. Uses are not counted, so only `created_at`
    sorts; else the order is that of the names.
    """
    wanted = {code.lower() for code in (language or []) + (title_language or [])}
    found = [
        voice
        for voice in await context.service.voice_service.list_voices()
        if voice_key(title) in voice_key(voice.name)
        and set(tag or []) <= set(voice.tags)
        and not (self_only and voice.is_builtin)
        and author_id in (None, AUTHOR_ID)
        and (not wanted or voice.language in wanted)
    ]
    if sort_by == "created_at":
        found.sort(key=lambda voice: voice.created_at, reverse=True)
    first = (page_number - 1) * page_size
    items = [voice_document(voice, context, request) for voice in found[first : first + page_size]]
    return {"total": len(found), "items": items}


@router.get("/model/{voice_id}", summary="Describe a voice (Fish Audio)", responses={503: {}})
async def get_model(voice_id: str, request: Request, context: Context) -> dict[str, Any]:
    """Describe one voice, by id or name."""
    voice = await context.service.voice_service.get(voice_id)
    return voice_document(voice, context, request)


@router.post(
    "/model",
    summary="Add a voice (Fish Audio)",
    response_class=JSONResponse,
    responses={200: _VOICE_ANSWER, 400: {}, 409: {}, 415: {}, 503: {}},
    openapi_extra=_form_of(_CREATE_FORM),
)
async def create_model(request: Request, context: Context) -> Response:
    """Add a voice made of one or several recordings; it can speak at once."""
    form = await read_form(request, context.settings.max_upload_mb << 20)
    contents, texts = form.files.get("voices", []), form.texts.get("texts", [])
    if not contents:
        raise refused_field("voices", "must be at least one file")
    if len(texts) > len(contents):
        raise refused_field("texts", f"are {len(texts)} for {len(contents)} files")
    texts = [*texts, *[""] * (len(contents) - len(texts))]
    recordings = [UploadedReference(*pair) for pair in zip(contents, texts, strict=True)]
    draft = VoiceDraft(
        name=form.required_text("title"),
        description=form.text("description") or "",
        tags=tuple(form.texts.get("tags", [])),
        language=(form.texts.get("languages") or [""])[0],
    )
    added = await context.service.voice_service.add(draft, recordings)
    hints = [item.message for report in added.reports for item in report.findings]
    return _answer(added.voice, [*hints, *_without_effect(form)], request, context)


@router.patch(
    "/model/{voice_id}",
    summary="Change a voice (Fish Audio)",
    response_class=JSONResponse,
    responses={200: _VOICE_ANSWER, 400: {}, 403: {}, 409: {}, 415: {}, 503: {}},
    openapi_extra=_form_of({"type": "object", "properties": _FIELDS}),
)
async def update_model(voice_id: str, request: Request, context: Context) -> Response:
    """Change what is said about an added voice."""
    form = await read_form(request, context.settings.max_upload_mb << 20)
    changes = VoiceChanges(
        name=form.text("title"),
        description=form.text("description"),
        tags=tuple(form.texts["tags"]) if "tags" in form.texts else None,
        language=form.texts["languages"][0] if "languages" in form.texts else None,
    )
    voice = await context.service.voice_service.update(voice_id, changes)
    return _answer(voice, _without_effect(form), request, context)


@router.delete(
    "/model/{voice_id}",
    summary="Delete a voice (Fish Audio)",
    status_code=204,
    response_class=Response,
    responses={403: {}, 503: {}},
)
async def delete_model(voice_id: str, context: Context) -> Response:
    """Delete an added voice; those that came with the model stay."""
    await context.service.voice_service.delete(voice_id)
    return Response(status_code=204)


def _without_effect(form: Form) -> list[str]:
    names = [
        name
        for name in form.unknown(*_KEPT)
        if [value.lower() for value in form.texts.get(name, [])] != [_USUAL.get(name)]
    ]
    return [f"fields without effect: {', '.join(map(ascii, names))}"] if names else []


def _answer(voice: Voice, hints: list[str], request: Request, context: Context) -> JSONResponse:
    document = voice_document(voice, context, request)
    return JSONResponse(document, headers=with_warnings({}, hints))
