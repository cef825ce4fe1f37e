"""What goes over the wire in OpenAI's dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from backend.audio.formats import OUTPUT_FORMATS
from backend.service.requests import MAX_SEED

MIN_SPEED, MAX_SPEED = 0.5, 2.0
PCM_RATE_HZ = 24_000
"""Clients of OpenAI's API play ``pcm`` at this rate without asking."""

_HELLO = "Hello! This is a test."


def _null_means(default: object) -> BeforeValidator:
    def replace_null(value: object) -> object:
        return default if value is None else value

    return BeforeValidator(replace_null)


def _read_voice(value: object) -> object:
    """Take a name, or an object with an id; one message instead of one for each."""
    name = value
    if isinstance(value, dict):
        name = cast("dict[str, object]", value).get("id")
    if value is not None and not isinstance(name, str):
        raise ValueError("must be a voice's name, or an object with its id")
    return cast("object", value)


class VoiceReference(BaseModel):
    """A voice by its id, as OpenAI writes custom voices."""

    id: str


class SpeechBody(BaseModel):
    """What to say and how. Fields that are not listed have no effect, and the answer says so."""

    model_config = ConfigDict(
        extra="allow",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        json_schema_extra={
            "examples": [{"model": "tts-1", "input": _HELLO, "voice": "alloy"}],
        },
    )

    model: str
    """The loaded model, or one of OpenAI's names for it; `GET /v1/models` lists them."""

    input: Annotated[str, Field(examples=[_HELLO])]
    """What to say."""

    voice: Annotated[str | VoiceReference | None, BeforeValidator(_read_voice)] = None
    """A name or id from `GET /v1/audio/voices`, one of OpenAI's names (`alloy`, `nova`, ...), or
    `{"id": ...}`. Without it the default voice speaks. An unknown one is refused."""

    response_format: Annotated[
        str, _null_means("mp3"), Field(json_schema_extra={"enum": list(OUTPUT_FORMATS)})
    ] = "mp3"
    """File format. `pcm` is raw 16-bit little-endian mono at 24 kHz."""

    speed: Annotated[
        float, _null_means(1.0), Field(ge=MIN_SPEED, le=MAX_SPEED, allow_inf_nan=False)
    ] = 1.0
    """How fast, at the same pitch."""

    instructions: str | None = None
    """Has no effect: the model follows no instructions, and `X-Warning` says so. Emotion markers in
    the text, as in `(excited) We won!`, do what S1-mini can do; `GET /emotions` lists them."""

    stream_format: Annotated[Literal["audio", "sse"], _null_means("audio")] = "audio"
    """`audio`: the file itself, as it is made. `sse`: server-sent events `speech.audio.delta` with
    the file in base64 pieces, then `speech.audio.done` with the usage."""

    language: str | None = None
    """Not OpenAI's: as in `POST /tts`."""

    sample_rate: int | None = None
    """Not OpenAI's: Hz of the sound, where the format can carry it."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """Not OpenAI's: the same seed with the same request gives the same sound."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """Not OpenAI's: as in `POST /tts`."""

    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Not OpenAI's: as in `POST /tts`."""

    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    """Not OpenAI's: as in `POST /tts`."""

    def unknown_fields(self) -> list[str]:
        """Give the names of fields that have no effect."""
        extra: dict[str, Any] = self.model_extra or {}
        return list(extra)


class ModelObject(BaseModel):
    """A name that can be sent as `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All names that can be sent as `model`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class AudioModel(BaseModel):
    """A model that speaks."""

    id: str
    name: str


class AudioModelList(BaseModel):
    """All models that speak, as Open WebUI asks for them."""

    models: list[AudioModel]


class VoiceObject(BaseModel):
    """A voice that can be sent as `voice`."""

    id: str
    name: str
    object: Literal["audio.voice"] = "audio.voice"
    type: Literal["audio_sample"] = "audio_sample"
    created_at: int


class VoiceList(BaseModel):
    """All voices: as OpenAI lists things (`data`) and as other servers do (`voices`)."""

    object: Literal["list"] = "list"
    data: list[VoiceObject]
    voices: list[VoiceObject]
    has_more: bool = False


class VoiceDeleted(BaseModel):
    """A voice that is gone."""

    id: str
    object: Literal["audio.voice"] = "audio.voice"
    deleted: bool = True
