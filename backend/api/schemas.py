"""What goes over the wire: request and response bodies. Their texts are the public documentation.

Bounds are stated with ``Field`` and enforced by pydantic; what the service can judge better (the
text, the recording, the names of voices and formats) is left to it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from backend.audio.effects import MAX_SPEED, MAX_VOLUME_DB, MIN_SPEED, MIN_VOLUME_DB
from backend.audio.formats import MAX_ASKED_RATE_HZ, MIN_SAMPLE_RATE_HZ, OUTPUT_FORMATS
from backend.service.requests import MAX_SEED

MAX_NEW_TOKENS = 32768
MAX_TOP_K = 65536
_FOX = "The quick brown fox jumps over the lazy dog."


def _null_means(default: object) -> BeforeValidator:
    def replace_null(value: object) -> object:
        return default if value is None else value

    return BeforeValidator(replace_null)


class SpeechFields(BaseModel):
    """What to say and how. Optional fields may be absent or null."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    text: Annotated[str, Field(examples=[_FOX])]
    """What to say. Long texts are cut into segments that are spoken one after another."""

    voice: str | None = None
    """Name of a voice from `GET /voices`. Without it and without `speaker_file` the model's default
    voice speaks; a model without voices draws one by the seed. Not together with
    `speaker_file`."""

    language: str | None = None
    """Language of the text as ISO 639-1 code (`en`, `de`, `ja`, ...), which tells abbreviations
    from the ends of sentences. Default: as the text says."""

    prompt_text: str | None = None
    """What is said in `speaker_file`, word for word. Without it the voice is copied less well."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0 takes the likeliest sound every time, higher values vary more. Default: the model's."""

    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Keeps the likeliest sounds up to this share of probability. Default: the model's."""

    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] | None = None
    """Keeps at most this many sounds; 0 keeps all. Default: the model's."""

    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    """Above 1 makes what was just said less likely; 1 is off. Default: the model's."""

    max_new_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] | None = None
    """Most frames of one segment (about 21 a second); 0 means as many as the model can hold.
    Default: the model's."""

    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] | None = None
    """Fewest frames of one segment: before, the model cannot end. For measurements; speech that is
    forced to go on is not looked after by `SPEECH_GUARD`. Default: 0."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed with the same request gives the same sound. Without one a seed is drawn and
    returned in `X-Seed`."""

    speed: Annotated[
        float, _null_means(1.0), Field(ge=MIN_SPEED, le=MAX_SPEED, allow_inf_nan=False)
    ] = 1.0
    """2 is twice as fast, 0.5 half as fast; the pitch stays."""

    volume: Annotated[
        float, _null_means(0.0), Field(ge=MIN_VOLUME_DB, le=MAX_VOLUME_DB, allow_inf_nan=False)
    ] = 0.0
    """Decibels louder or (below 0) quieter. Peaks are limited, not clipped."""

    normalize: Annotated[bool, _null_means(False)] = False
    """Bring the loudness to -16 LUFS (EBU R128): exactly for whole files; streams come to it within
    the first second and follow slowly."""

    trim_silence: Annotated[bool, _null_means(False)] = False
    """Take silence (below -50 dBFS) before and after the speech away, all but 30 ms; pauses inside
    stay. A stream's pauses are held back until sound follows."""

    format: Annotated[
        str, _null_means("wav"), Field(json_schema_extra={"enum": list(OUTPUT_FORMATS)})
    ] = "wav"
    """File format of the answer. `pcm` is raw 16-bit little-endian mono at `X-Sample-Rate`."""

    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE_HZ, le=MAX_ASKED_RATE_HZ)] | None = None
    """Hz of the file; mp3, aac and opus have a few rates to choose from. Default: the model's, or
    the nearest that the format can carry."""


class TtsRequest(SpeechFields):
    """What to say and how. Optional fields may be absent or null."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": _FOX, "format": "wav", "seed": 7}]}
    )

    stream: Annotated[bool, _null_means(True)] = True
    """true: bytes come as they are made. false: one whole file with `Content-Length`, a header that
    states the length, and all figures in the response headers."""


class CacheClearRequest(BaseModel):
    """Which cache to empty."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    cache: Annotated[Literal["all", "voice_codes", "semantic", "prefix_kv"], _null_means("all")] = (
        "all"
    )
    """`voice_codes`: uploaded recordings; `semantic`: spoken texts; `prefix_kv`: prompts."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Kind of error, for programs."""
    message: str
    """What is wrong and what to do about it, for people."""
    param: str | None = None
    """The field that is wrong, where it is one."""
    request_id: str
    """Names the request in the server's log."""


class ErrorResponse(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class MarkerResponse(BaseModel):
    """One marker, how it is used, and a text that uses it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    marker: str
    use: str
    example: str
    known_by_model: bool | None = None
    """Whether the loaded model was trained with it; null when that is not known."""


class MarkerGroupResponse(BaseModel):
    """Markers of one kind."""

    name: str
    use: str
    markers: list[MarkerResponse]


class EmotionsResponse(BaseModel):
    """All markers of the S1 family."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    known_by_model: bool | None
    """Whether the loaded model was trained with markers; null when that is not known."""
    note: str
    count: int
    groups: list[MarkerGroupResponse]


class QueueResponse(BaseModel):
    """Requests in the engine."""

    running: int
    waiting: int
    max_running: int
    max_waiting: int


class GpuResponse(BaseModel):
    """The graphics card; what its driver does not tell is null."""

    name: str
    memory_used_mib: float | None
    memory_total_mib: float | None
    utilization_percent: float | None
    temperature_c: float | None
    power_w: float | None


class HealthResponse(BaseModel):
    """How the service is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["starting", "ready", "restarting", "failed", "closed"]
    """`restarting`: the engine died and is started again; requests wait for it."""
    detail: str
    """Why, when the status is not `ready`."""
    model: str
    device: str
    precision: str
    quantization: str
    """Of the transformer's linear layers: `none`, `int8` or `nf4`."""
    sample_rate: int | None
    notes: list[str]
    """What differs from what the settings asked for."""
    queue: QueueResponse
    memory_bytes: int | None
    restarts: int
    """Times the engine was started again after it had died."""
    last_failure: str | None
    """Why the engine died the last time."""
    memory_plan: dict[str, int]
    """Bytes by part (`weights`, `codec`, `slots`, `workspace`), as planned at the start."""
    gpus: list[GpuResponse]
    version: str
    uptime_s: float


class CacheClearResponse(BaseModel):
    """Entries that were dropped, by cache."""

    cleared: dict[str, int]


class RequestFiguresResponse(BaseModel):
    """What one request cost; null where it was not measured or did not happen."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    request_id: str
    status: Literal["ok", "failed", "cancelled", "rejected"]
    started_at: float
    """UNIX time in seconds."""
    error: str | None
    voice: str | None
    format: str | None
    seed: int | None
    num_chars: int | None
    num_frames: int | None
    finish_reason: str | None
    audio_duration_s: float | None
    ttfa_ms: float | None
    """From the body read to the first audio byte; only for streams."""
    latency_ms: float | None
    """From the body read to the last byte."""
    queue_ms: float | None
    rtf: float | None
    """`latency / audio duration`; below 1 is faster than real time."""
    x_realtime: float | None
    stages_ms: dict[str, float]
    cache: str
    """`hit` or `miss` of the semantic cache; empty when it was not asked."""
    cache_hits: dict[str, bool]
    troubles: list[str]
    """What went wrong with the speech and was made again or cut: `too_long`, `repeating`,
    `silent`."""
    peak_vram_mb: float | None
    """The engine's most device memory until then, in MiB."""
    gpu_util_pct: int | None
    """Utilization of the card at the end."""


class RequestsResponse(BaseModel):
    """The newest finished requests, newest first."""

    requests: list[RequestFiguresResponse]


class RootResponse(BaseModel):
    """Where to go from here."""

    name: str
    version: str
    docs: str
    endpoints: dict[str, str]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    return {status: {"model": ErrorResponse} for status in statuses}
