"""``/jobs``: long texts, spoken in the background and kept over a restart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from backend.api.bodies import read_json_or_form
from backend.api.context import Context
from backend.api.errors import request_id_of
from backend.api.job_schemas import JobRequest, JobResponse, JobsResponse, job_response
from backend.api.schemas import error_responses
from backend.api.speech import AUDIO_CONTENT, SPEAKER_FILE, speech_body
from backend.api.speech_requests import speech_request
from backend.api.streaming import PiecesResponse, SpeechResponse, early_headers, while_connected
from backend.audio.formats import MAX_ASKED_RATE_HZ, MIN_SAMPLE_RATE_HZ, OUTPUT_FORMATS
from backend.service.job_types import Job

router = APIRouter(prefix="/jobs", tags=["jobs"])

EVENT_STREAM = "text/event-stream"
_ID = Annotated[str, Path(description="Of the job.", max_length=64)]
_EVENTS: dict[str, Any] = {
    "description": (
        "Server-sent events: `event: progress` with the job as JSON in `data`, now and whenever "
        "something has changed; ends with the job."
    ),
    "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
}


@router.post(
    "",
    status_code=202,
    summary="Speak a long text in the background",
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 500, 503),
    openapi_extra={"requestBody": speech_body(JobRequest)},
)
async def create(request: Request, context: Context) -> JobResponse:
    """Store a job and begin it when its turn comes; requests to `/tts` go first.

    The text may have up to `MAX_JOB_CHARS` characters. Every stretch of it is stored as it is
    spoken, so a job goes on after a restart where it was.
    """
    max_bytes = context.settings.max_upload_mb << 20
    body, recording = await read_json_or_form(request, JobRequest, SPEAKER_FILE, max_bytes)
    asked = speech_request(body, request_id_of(request), recording)
    job = await while_connected(request, context.jobs.create(asked, body.name or ""))
    return job_response(job)


@router.get("", summary="List the jobs", responses=error_responses(503))
async def list_all(context: Context) -> JobsResponse:
    """List all jobs, newest first."""
    return JobsResponse(jobs=[job_response(job) for job in await context.jobs.all()])


@router.get("/{job_id}", summary="Look at a job", responses=error_responses(404, 503))
async def get(job_id: _ID, context: Context) -> JobResponse:
    """Tell how far a job is."""
    return job_response(await context.jobs.get(job_id))


@router.get(
    "/{job_id}/events",
    summary="Watch a job",
    response_class=Response,
    responses={200: _EVENTS, **error_responses(404, 503)},
)
async def events(job_id: _ID, context: Context) -> Response:
    """Send the job as server-sent events until it is done, failed, cancelled or deleted."""
    await context.jobs.get(job_id)  # a 404 needs its status before the stream begins
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return PiecesResponse(_as_events(context.jobs.watch(job_id)), EVENT_STREAM, headers)


@router.post("/{job_id}/pause", summary="Pause a job", responses=error_responses(404, 409, 503))
async def pause(job_id: _ID, context: Context) -> JobResponse:
    """Stop at once; the stretch that is being spoken will be begun again."""
    return job_response(await context.jobs.pause(job_id))


@router.post("/{job_id}/resume", summary="Resume a job", responses=error_responses(404, 409, 503))
async def resume(job_id: _ID, context: Context) -> JobResponse:
    """Let a paused job go on, or try the missing stretches of a failed one again."""
    return job_response(await context.jobs.resume(job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=error_responses(404, 409, 503))
async def cancel(job_id: _ID, context: Context) -> JobResponse:
    """End a job for good; what was spoken can still be fetched with `?partial=true`."""
    return job_response(await context.jobs.cancel(job_id))


@router.get(
    "/{job_id}/audio",
    summary="Fetch a job's sound",
    response_class=Response,
    responses={
        200: {"description": "The speech.", "content": AUDIO_CONTENT},
        **error_responses(400, 404, 409, 422, 429, 500, 503),
    },
)
async def audio(
    request: Request,
    job_id: _ID,
    context: Context,
    format: Annotated[
        str | None, Query(description="Instead of the job's own.", examples=list(OUTPUT_FORMATS))
    ] = None,
    sample_rate: Annotated[
        int | None, Query(ge=MIN_SAMPLE_RATE_HZ, le=MAX_ASKED_RATE_HZ, description="Hz.")
    ] = None,
    partial: Annotated[
        bool, Query(description="Give what there is, although the job is not done.")
    ] = False,
) -> Response:
    """Give the sound of a job, in any format; the model does not run for it."""
    speech = await while_connected(
        request,
        context.jobs.audio(
            job_id,
            request_id_of(request),
            format_name=format,
            sample_rate=sample_rate,
            partial=partial,
        ),
    )
    headers = early_headers(speech)
    headers["Content-Disposition"] = f'attachment; filename="{job_id}.{speech.extension}"'
    return SpeechResponse(speech, headers)


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Delete a job",
    response_class=Response,
    responses=error_responses(404, 503),
)
async def delete(job_id: _ID, context: Context) -> Response:
    """Forget a job and everything that was spoken, whether it has ended or not."""
    await context.jobs.delete(job_id)
    return Response(status_code=204)


async def _as_events(jobs: AsyncGenerator[Job | None, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(jobs):
        async for job in jobs:
            if job is None:
                yield b": still here\n\n"
                continue
            data = job_response(job).model_dump_json()
            yield f"event: progress\ndata: {data}\n\n".encode()
