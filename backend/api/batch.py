"""``POST /tts/batch``: many texts into one ZIP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from backend.api.bodies import JSON, read_json
from backend.api.context import Context
from backend.api.errors import ERROR_TABLE, request_id_of
from backend.api.job_schemas import BatchItem, BatchRequest
from backend.api.schemas import error_responses
from backend.api.speech_requests import speech_request
from backend.api.standalone_schema import standalone_schema
from backend.api.streaming import PiecesResponse
from backend.core.errors import InvalidInputError, TTSError
from backend.service.batch import Ask, BatchEntry, zipped_speech

router = APIRouter(tags=["speech"])

ZIP = "application/zip"
_ANSWER: dict[str, Any] = {
    "description": (
        "A ZIP with one file for each item that could be spoken (`000-name.mp3`, in the order of "
        "the request) and, last, `manifest.json`: `items`, each with `index`, `name`, `file`, "
        "`seed`, `voice`, `audio_duration_s` and `error` (null, or `type` and `message`), and the "
        "counts `num_items` and `num_failed`."
    ),
    "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
}


@router.post(
    "/tts/batch",
    summary="Speak many texts",
    response_class=Response,
    responses={200: _ANSWER, **error_responses(400, 413, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": standalone_schema(BatchRequest)}},
        }
    },
)
async def speak_all(request: Request, context: Context) -> Response:
    """Speak every item into a file of its own; the ZIP streams while they are made.

    An item that cannot be spoken is reported in `manifest.json`, and the others are not harmed. A
    body that does not fit the schema is refused as a whole before anything is spoken.
    """
    body = await read_json(request, BatchRequest)
    limit = context.settings.max_batch_items
    if len(body.items) > limit:
        raise InvalidInputError(
            f"items: {len(body.items)} are too many, at most {limit} are spoken at once; send them "
            "in parts, or raise MAX_BATCH_ITEMS"
        )
    context.service.voices()  # refuses while there is no model, before the status is sent
    request_id = request_id_of(request)
    asks = [_ask(item, f"{request_id}/{idx}") for idx, item in enumerate(body.items)]
    at_a_time = max(1, context.settings.max_slots // 2)  # the other half is for others
    pieces = zipped_speech(context.service, asks, _describe, at_a_time)
    headers = {
        "Content-Disposition": 'attachment; filename="speech.zip"',
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
    return PiecesResponse(pieces, ZIP, headers)


def _ask(item: BatchItem, request_id: str) -> Ask:
    return Ask(item.name or "speech", lambda: speech_request(item, request_id, is_patient=True))


def _describe(entry: BatchEntry) -> dict[str, Any]:
    error = entry.error
    return {
        "index": entry.idx,
        "name": entry.name,
        "file": entry.file,
        "seed": entry.seed,
        "voice": entry.voice,
        "audio_duration_s": entry.audio_s,
        "error": None if error is None else _problem(error),
    }


def _problem(error: TTSError) -> dict[str, str]:
    return {"type": ERROR_TABLE[type(error)].type, "message": str(error)}
