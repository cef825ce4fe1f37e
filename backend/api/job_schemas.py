"""Bodies of jobs and batches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from backend.api.schemas import SpeechFields
from backend.service.job_types import Job, JobStatus

_JOB: dict[str, Any] = {
    "name": "Chapter 1",
    "text": "It was a bright cold day in April. ...",
    "format": "mp3",
}
_BATCH: dict[str, Any] = {
    "items": [
        {"text": "Welcome.", "name": "welcome", "format": "mp3", "seed": 1},
        {"text": "Goodbye.", "name": "goodbye", "format": "mp3", "seed": 1},
    ]
}


class JobRequest(SpeechFields):
    """As for `POST /tts`, without `stream`, and with a name."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB]})

    name: Annotated[str, Field(max_length=200)] | None = None
    """For people."""


class BatchItem(SpeechFields):
    """As for `POST /tts`, without a recording and `stream`, and with a name for the file."""

    text: Annotated[str, Field(min_length=1, examples=["Welcome."])]
    """What to say."""

    name: Annotated[str, Field(pattern=r"^[\w][\w .()-]{0,79}$")] | None = None
    """Stands in the file's name in the ZIP: `000-NAME.mp3`."""


class BatchRequest(BaseModel):
    """Texts to speak."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [_BATCH]},
    )

    items: Annotated[list[BatchItem], Field(min_length=1)]
    """At most `MAX_BATCH_ITEMS` of them (64, unless the server says otherwise)."""


class FailedSegmentResponse(BaseModel):
    """A stretch that could not be spoken."""

    index: int
    text: str
    error: str


class JobResponse(BaseModel):
    """A long text on its way."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    status: JobStatus
    text: str
    """Its beginning."""
    voice: str | None
    format: str
    sample_rate: int | None
    seed: int
    created_at: float
    """UNIX time in seconds."""
    updated_at: float
    num_chars: int
    num_segments: int
    done_segments: int
    progress: float
    """Share of the text that has been spoken, 0 to 1."""
    audio_duration_s: float
    """Seconds of speech so far."""
    error: str | None
    """Why it failed or waits, where there is more to say than its status."""
    failed_segments: list[FailedSegmentResponse]
    """The first 20 stretches that could not be spoken; `resume` tries them again."""
    warnings: list[str]


class JobsResponse(BaseModel):
    """All jobs, newest first."""

    jobs: list[JobResponse]


def job_response(job: Job) -> JobResponse:
    """Write a job down."""
    return JobResponse(
        id=job.id,
        name=job.name,
        status=job.status,
        text=job.text,
        voice=job.plan.voice,
        format=job.plan.file.format,
        sample_rate=job.plan.file.sample_rate,
        seed=job.plan.sampling.seed,
        created_at=job.created_at,
        updated_at=job.updated_at,
        num_chars=job.num_chars,
        num_segments=job.num_segments,
        done_segments=job.done_segments,
        progress=round(job.done_chars / job.num_chars, 4) if job.num_chars else 1.0,
        audio_duration_s=round(job.audio_s, 3),
        error=job.detail or None,
        failed_segments=[
            FailedSegmentResponse(index=one.idx, text=one.text, error=one.error)
            for one in job.failed
        ],
        warnings=list(job.plan.warnings),
    )
