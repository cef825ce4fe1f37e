"""``POST /v1/tts``: text in, speech out, as Fish Audio's clients ask for it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from backend.api.bodies import JSON
from backend.api.context import ApiContext, Context
from backend.api.errors import request_id_of
from backend.api.fish.bodies import MSGPACK, read_body
from backend.api.fish.schemas import TtsBody, speech_request
from backend.api.standalone_schema import standalone_schema
from backend.api.streaming import SpeechResponse, early_headers, while_connected, with_warnings
from backend.audio.formats import OUTPUT_FORMATS
from backend.core.errors import InvalidInputError, TTSError

router = APIRouter(tags=["Fish dialect"])

_ANSWER: dict[str, Any] = {
    "description": "The speech, in the format that was asked for.",
    "content": {
        output.media_type: {"schema": {"type": "string", "format": "binary"}}
        for output in OUTPUT_FORMATS.values()
    },
    "headers": {
        "X-Warning": {
            "description": "What was asked for and is not done.",
            "schema": {"type": "string"},
        }
    },
}
_BODY = standalone_schema(TtsBody)


@router.post(
    "/v1/tts",
    summary="Speak a text (Fish Audio)",
    response_class=Response,
    responses={200: _ANSWER, 400: {}, 404: {}, 415: {}, 429: {}, 503: {}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _BODY}, MSGPACK: {"schema": _BODY}},
        }
    },
)
async def speak(request: Request, context: Context) -> Response:
    """Speak a text. The answer streams from the first sound on.

    The header `model` of Fish Audio's clients may have any value: the loaded model speaks.
    """
    try:
        body = await read_body(request, TtsBody)
        voice = find_voice(body.reference_id, context)
    except (TTSError, RequestValidationError, HTTPException) as error:
        context.service.metrics.request_rejected(type(error).__name__)
        raise
    asked = speech_request(body, voice, request_id_of(request))
    speech = await while_connected(request, context.service.speak(asked))
    headers = with_warnings(early_headers(speech), body.warnings())
    return SpeechResponse(speech, headers)


def find_voice(reference_id: str | list[str] | None, context: ApiContext) -> str | None:
    """Give the id of the voice that a ``reference_id`` means; None when there is none.

    Raises:
        InvalidInputError: It names several.
        VoiceNotFoundError: There is no such voice.
        EngineUnavailableError: The voices are not there yet.
    """
    ids = [reference_id] if isinstance(reference_id, str) else reference_id or []
    named = [item for item in ids if item]
    if not named:
        return None
    if len(named) > 1:
        raise InvalidInputError(
            f"reference_id names {len(named)} voices, but this model speaks a text with one; send "
            "one id, and a request for each speaker"
        )
    return context.service.voices().find(named[0]).id
