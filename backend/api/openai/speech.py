"""``POST /v1/audio/speech``: text in, speech out, as OpenAI's clients ask for it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from backend.api.bodies import JSON, read_json
from backend.api.context import ApiContext, Context
from backend.api.errors import request_id_of, stream_error
from backend.api.openai.names import choose_voice, require_model, voice_aliases
from backend.api.openai.schemas import PCM_RATE_HZ, SpeechBody, VoiceReference
from backend.api.standalone_schema import standalone_schema
from backend.api.streaming import SpeechResponse, early_headers, while_connected, with_warnings
from backend.audio.formats import OUTPUT_FORMATS
from backend.core.errors import TTSError
from backend.service.requests import SamplingOverrides, Speech, SpeechRequest

router = APIRouter(tags=["OpenAI dialect"])

EVENT_STREAM = "text/event-stream"
_INSTRUCTIONS_WARNING = (
    "instructions have no effect with this model; use markers in the text, see GET /emotions"
)
_ANSWER: dict[str, Any] = {
    "description": "The speech, as a file or (`stream_format=sse`) as events.",
    "content": {
        **{
            output.media_type: {"schema": {"type": "string", "format": "binary"}}
            for output in OUTPUT_FORMATS.values()
        },
        EVENT_STREAM: {"schema": {"type": "string"}},
    },
    "headers": {
        "X-Warning": {
            "description": "Something to know although the speech was made.",
            "schema": {"type": "string"},
        }
    },
}


@router.post(
    "/v1/audio/speech",
    summary="Speak a text (OpenAI)",
    response_class=Response,
    responses={200: _ANSWER, 400: {}, 404: {}, 429: {}, 503: {}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": standalone_schema(SpeechBody)}},
        }
    },
)
async def create_speech(request: Request, context: Context) -> Response:
    """Speak a text. The answer streams from the first sound on."""
    try:
        body = await read_json(request, SpeechBody)
        asked, warnings = _read(request, body, context)
    except (TTSError, RequestValidationError, HTTPException) as error:
        context.service.metrics.request_rejected(type(error).__name__)
        raise
    speech = await while_connected(request, context.service.speak(asked))
    headers = with_warnings(early_headers(speech), warnings)
    if body.stream_format == "audio":
        return SpeechResponse(speech, headers)
    input_tokens = await context.service.count_tokens(body.input)
    return SpeechEvents(speech, headers, input_tokens, request.url.path)


class SpeechEvents(SpeechResponse):
    """Speech as server-sent events.

    Args:
        speech: Closed at the end, whichever way it comes.
        headers: Of the answer, besides the content type.
        input_tokens: Of the text, for the usage.
        path: Of the request; tells how errors are written.
    """

    def __init__(
        self, speech: Speech, headers: dict[str, str], input_tokens: int, path: str
    ) -> None:
        hidden = ("Content-Disposition",)  # it names a file, which this is not
        shown = {name: value for name, value in headers.items() if name not in hidden}
        super().__init__(speech, shown, media_type=EVENT_STREAM)
        self._input_tokens = input_tokens
        self._path = path

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield one event for each piece of the file, then the usage or what went wrong."""
        try:
            async for chunk in self.speech.chunks():
                audio = base64.b64encode(chunk).decode("ascii")
                yield _event({"type": "speech.audio.delta", "audio": audio})
        except TTSError as error:
            yield _event({"type": "speech.audio.error", **stream_error(error, self._path)})
            return
        output_tokens = self.speech.ledger.num_frames
        usage = {
            "input_tokens": self._input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": self._input_tokens + output_tokens,
        }
        yield _event({"type": "speech.audio.done", "usage": usage})


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _read(
    request: Request, body: SpeechBody, context: ApiContext
) -> tuple[SpeechRequest, list[str]]:
    """Give the request in the service's terms, and what the client should know about it."""
    require_model(body.model, context)
    asked = body.voice.id if isinstance(body.voice, VoiceReference) else body.voice
    chosen = choose_voice(asked, context.service.voices(), voice_aliases(context))
    warnings = [] if chosen.warning is None else [chosen.warning]
    if body.instructions:
        warnings.append(_INSTRUCTIONS_WARNING)
    unknown = body.unknown_fields()
    if unknown:
        warnings.append(f"fields without effect: {', '.join(map(ascii, unknown))}")
    sample_rate = body.sample_rate
    if sample_rate is None and body.response_format.strip().lower() == "pcm":
        sample_rate = PCM_RATE_HZ
    speech = SpeechRequest(
        request_id=request_id_of(request),
        text=body.input,
        voice=chosen.voice,
        sampling=SamplingOverrides(
            temperature=body.temperature,
            top_p=body.top_p,
            repetition_penalty=body.repetition_penalty,
        ),
        seed=chosen.seed if body.seed is None else body.seed,
        format=body.response_format,
        speed=body.speed,
        sample_rate=sample_rate,
        language=body.language,
    )
    return speech, warnings
