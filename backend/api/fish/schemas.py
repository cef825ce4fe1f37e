"""What goes over the wire in Fish Audio's dialect: speech and its events."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from backend.service.live_text import LiveText
from backend.service.requests import (
    MAX_SEED,
    SamplingOverrides,
    SpeechRequest,
    UploadedReference,
)

AUTO_OPUS_BITRATE = -1000
FORMATS = ("mp3", "wav", "pcm", "opus", "flac", "aac")
MAX_REFERENCES = 8
_SMALLEST_TOP_P = 1e-6  # the client may ask for 0, which keeps the likeliest sound alone
_HELLO = "Hello! This is a test."


def _null_means(default: object) -> BeforeValidator:
    def replace_null(value: object) -> object:
        return default if value is None else value

    return BeforeValidator(replace_null)


def _read_bytes(value: object, info: ValidationInfo) -> object:
    """Take bytes as they are, and text as base64, perhaps as a data URI."""
    if not isinstance(value, str):
        return value
    _, separator, rest = value.partition(";base64,")
    try:
        return base64.b64decode(rest if separator else value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is text but not base64; send the file's bytes in base64") from None


Bytes = Annotated[bytes, BeforeValidator(_read_bytes)]
"""A file: bytes in msgpack, base64 in JSON."""


class ReferenceBody(BaseModel):
    """A recording of the voice to speak with."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    audio: Annotated[Bytes, Field(json_schema_extra={"contentEncoding": "base64"})]
    """The file; in JSON as base64."""

    text: Annotated[str, _null_means("")] = ""
    """What is said in it, word for word."""


class ProsodyBody(BaseModel):
    """Speed and level."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    speed: Annotated[float, _null_means(1.0), Field(ge=0.5, le=2.0, allow_inf_nan=False)] = 1.0
    """How fast, at the same pitch."""

    volume: Annotated[float, _null_means(0.0), Field(ge=-20.0, le=20.0, allow_inf_nan=False)] = 0.0
    """Change of the level in dB."""

    normalize_loudness: Annotated[bool, _null_means(False)] = False
    """Bring the speech to the usual loudness."""


class TtsBody(BaseModel):
    """What to say and how. Every optional field may be absent or null.

    Fields that are not listed have no effect, and the answer says so in `X-Warning`.
    """

    model_config = ConfigDict(
        extra="allow",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"text": _HELLO, "format": "mp3"}]},
    )

    text: Annotated[str, _null_means(""), Field(examples=[_HELLO])]
    """What to say."""

    format: Annotated[str, _null_means("mp3"), Field(json_schema_extra={"enum": list(FORMATS)})] = (
        "mp3"
    )
    """File format. `pcm` is raw 16-bit little-endian mono at the model's rate or `sample_rate`."""

    sample_rate: int | None = None
    """Hz, where the format can carry it. Default: the model's."""

    mp3_bitrate: int | None = None
    """kbit/s, for MP3."""

    opus_bitrate: int | None = None
    """kbit/s, for Opus; -1000 leaves the choice to the server."""

    references: Annotated[
        list[ReferenceBody], _null_means([]), Field(max_length=MAX_REFERENCES)
    ] = []
    """Recordings of the voice to speak with."""

    reference_id: str | list[str] | None = None
    """Id of a voice from `GET /model`, instead of `references`. The model speaks with one voice, so
    a list has one member."""

    prosody: ProsodyBody | None = None

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0 takes the likeliest sound every time, higher values vary more. Default: the model's."""

    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Keeps the likeliest sounds up to this share of probability. Default: the model's."""

    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    """Above 1 makes what was just said less likely. Default: the model's."""

    max_new_tokens: Annotated[int, Field(ge=0, le=32768)] | None = None
    """Most frames of one stretch of text; 0 means as many as fit. Default: the model's."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed with the same request gives the same sound."""

    streaming: Annotated[bool, _null_means(True)] = True
    """false: one whole file, whose header states its length."""

    chunk_length: int | None = None
    """Has no effect: the text is cut at sentences into stretches that the model speaks well."""

    min_chunk_length: int | None = None
    """Has no effect."""

    normalize: bool | None = None
    """Has no effect: the model reads numbers and symbols by itself."""

    latency: Literal["low", "normal", "balanced"] | None = None
    """Has no effect: sound always leaves as soon as it is there, at full quality."""

    condition_on_previous_chunks: bool | None = None
    """Has no effect: every stretch continues the one before it."""

    early_stop_threshold: float | None = None
    """Has no effect: the model itself says when it is done."""

    use_memory_cache: Literal["on", "off"] | None = None
    """Has no effect: what was encoded once is kept, and the sound is the same either way."""

    def warnings(self) -> list[str]:
        """Say, in ASCII, what was asked for and is not done.

        The values that Fish Audio's libraries send unasked count as not asked for.
        """
        usual = {
            "chunk_length": 200,
            "min_chunk_length": 50,
            "normalize": True,
            "condition_on_previous_chunks": True,
            "early_stop_threshold": 1.0,
        }
        unheard = [
            f"{name}={value}"
            for name, default in usual.items()
            if (value := getattr(self, name)) is not None and value != default
        ]
        extra: dict[str, Any] = self.model_extra or {}
        unheard += map(ascii, extra)
        told = [f"fields without effect: {', '.join(unheard)}"] if unheard else []
        if self.references and self.reference_id:
            told.append("references have no effect beside reference_id")
        return told


class StartEvent(BaseModel):
    """First message of a live connection."""

    event: Literal["start"]
    request: TtsBody


class TextEvent(BaseModel):
    """The next piece of the text."""

    event: Literal["text"]
    text: str


def speech_request(
    body: TtsBody, voice: str | None, request_id: str, live_text: LiveText | None = None
) -> SpeechRequest:
    """Give a request in the service's terms.

    Args:
        body: As it came.
        voice: Id of the library's voice that ``reference_id`` means, if it was given.
        request_id: Names the request.
        live_text: Takes the place of the body's text.
    """
    recordings = (
        [UploadedReference(item.audio, item.text) for item in body.references]
        if voice is None
        else []
    )
    prosody = body.prosody or ProsodyBody()
    top_p = None if body.top_p is None else max(body.top_p, _SMALLEST_TOP_P)
    output = body.format.strip().lower()
    bitrates = {"mp3": body.mp3_bitrate, "opus": body.opus_bitrate}
    bitrate_kbps = bitrates.get(output)
    return SpeechRequest(
        request_id=request_id,
        text="" if live_text is not None else body.text,
        live_text=live_text,
        voice=voice,
        reference=recordings[0] if recordings else None,
        further_references=tuple(recordings[1:]),
        sampling=SamplingOverrides(
            temperature=body.temperature,
            top_p=top_p,
            repetition_penalty=body.repetition_penalty,
            max_new_tokens=body.max_new_tokens,
        ),
        seed=body.seed,
        format=output,
        stream=body.streaming or live_text is not None,
        bitrate_kbps=None if bitrate_kbps == AUTO_OPUS_BITRATE else bitrate_kbps,
        speed=prosody.speed,
        volume_db=prosody.volume,
        normalize=prosody.normalize_loudness,
        sample_rate=body.sample_rate,
    )
