"""From the fields of a body to what the service is asked; shared by /tts, /tts/batch and /jobs."""

from __future__ import annotations

from backend.api.schemas import SpeechFields
from backend.core.errors import InvalidInputError
from backend.service.requests import SamplingOverrides, SpeechRequest, UploadedReference


def speech_request(
    body: SpeechFields,
    request_id: str,
    recording: bytes | None = None,
    *,
    stream: bool = False,
    is_patient: bool = False,
) -> SpeechRequest:
    """Make the request that the service understands; every field of ``body`` goes into it.

    Raises:
        InvalidInputError: There is a transcript without a recording.
    """
    if recording is None and body.prompt_text:
        raise InvalidInputError(
            "prompt_text says what is said in a recording, but there is none; send speaker_file "
            "too, or leave prompt_text out"
        )
    return SpeechRequest(
        request_id=request_id,
        text=body.text,
        voice=body.voice,
        language=body.language,
        reference=(
            None if recording is None else UploadedReference(recording, body.prompt_text or "")
        ),
        sampling=SamplingOverrides(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            repetition_penalty=body.repetition_penalty,
            max_new_tokens=body.max_new_tokens,
            min_new_tokens=body.min_new_tokens,
        ),
        seed=body.seed,
        speed=body.speed,
        volume_db=body.volume,
        normalize=body.normalize,
        trim_silence=body.trim_silence,
        format=body.format,
        sample_rate=body.sample_rate,
        stream=stream,
        is_patient=is_patient,
    )
