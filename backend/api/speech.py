"""``POST /tts``: text in, speech out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from backend.api.bodies import JSON, MULTIPART, read_json_or_form
from backend.api.context import Context
from backend.api.errors import request_id_of
from backend.api.schemas import SpeechFields, TtsRequest, error_responses
from backend.api.speech_requests import speech_request
from backend.api.streaming import SpeechResponse, early_headers, late_headers, while_connected
from backend.audio.formats import OUTPUT_FORMATS
from backend.core.errors import TTSError
from backend.service.requests import Speech, SpeechRequest

router = APIRouter(tags=["speech"])

SPEAKER_FILE = "speaker_file"

AUDIO_CONTENT: dict[str, Any] = {
    output.media_type: {"schema": {"type": "string", "format": "binary"}}
    for output in OUTPUT_FORMATS.values()
}
"""Every media type that speech can come as, for OpenAPI."""

_AUDIO_ANSWER: dict[str, Any] = {
    "description": "The speech, in the format that was asked for.",
    "content": AUDIO_CONTENT,
    "headers": {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Request-Id": "Names the request; `GET /metrics/requests/{id}` tells what it cost.",
            "X-Seed": "Send it as `seed` to get the same sound again.",
            "X-Sample-Rate": "Hz of the sound.",
            "X-Voice": "The voice that spoke, `upload`, or `none` for one drawn by the seed.",
            "X-Cache": "`hit` when this speech was made before.",
            "X-Voice-Cache": "`hit` when the recording was encoded before.",
            "X-TTFA-Ms": "From the body read to the first audio byte.",
            "X-Segments": "Stretches the text was cut into.",
            "X-Warning": "Something to know although the speech was made.",
            "X-Peak-VRAM-Mb": (
                "The engine's most device memory in MiB, at the first sound (`stream=false`: at "
                "the end); absent without a card."
            ),
            "X-GPU-Util-Pct": "Utilization of the card, at the same time; absent without a card.",
            "X-Queue-Ms": "Time in the queue; only with `stream=false`.",
            "X-Latency-Ms": "From the body read to the last byte; only with `stream=false`.",
            "X-RTF": "Latency over duration; only with `stream=false`.",
            "X-Audio-Duration-S": "Length of the speech; only with `stream=false`.",
            "X-Num-Frames": "Codec frames; only with `stream=false`.",
            "X-Finish-Reason": (
                "`stop`, `length`, or `cut` where speech went wrong; only with `stream=false`."
            ),
        }.items()
    },
}


def speech_body(schema: type[SpeechFields]) -> dict[str, Any]:
    """Describe a body for OpenAPI: the same fields as JSON and as a form with a file."""
    fields = schema.model_json_schema()
    recording = {
        "type": "string",
        "format": "binary",
        "description": (
            "A recording of the voice to speak with: WAV, MP3, FLAC, Ogg, M4A and others; 5 to "
            "30 seconds are best. Send what is said in it as `prompt_text`."
        ),
    }
    form = {**fields, "properties": {**fields["properties"], SPEAKER_FILE: recording}}
    form.pop("examples")
    return {"required": True, "content": {MULTIPART: {"schema": form}, JSON: {"schema": fields}}}


@router.post(
    "/tts",
    summary="Speak a text",
    response_class=Response,
    responses={
        200: _AUDIO_ANSWER,
        **error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": speech_body(TtsRequest)},
)
async def speak(request: Request, context: Context) -> Response:
    """Speak a text in a named voice, or in the voice of an uploaded recording.

    The answer streams from the first sound on. Everything that can be wrong with a request is
    reported with a status before the first byte; an error after it ends the connection early.
    """
    try:
        asked = await _read(request, context)
    except (TTSError, RequestValidationError, HTTPException) as error:
        context.service.metrics.request_rejected(type(error).__name__)
        raise
    speech = await while_connected(request, context.service.speak(asked))
    if asked.stream:
        return SpeechResponse(speech, early_headers(speech))
    return await _whole(speech)


async def _whole(speech: Speech) -> Response:
    """Wait for the file's accounts to be closed and give it with all figures."""
    content = b"".join([piece async for piece in speech.chunks()])
    headers = {**early_headers(speech), **late_headers(speech.ledger)}
    return Response(content, media_type=speech.media_type, headers=headers)


async def _read(request: Request, context: Context) -> SpeechRequest:
    max_bytes = context.settings.max_upload_mb << 20
    body, recording = await read_json_or_form(request, TtsRequest, SPEAKER_FILE, max_bytes)
    return speech_request(body, request_id_of(request), recording, stream=body.stream)
