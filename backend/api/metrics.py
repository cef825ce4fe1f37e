"""``GET /metrics``: counters and timings, as JSON for people and as text for Prometheus."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from backend.api.bodies import JSON
from backend.api.context import ApiContext, Context
from backend.api.schemas import RequestFiguresResponse, RequestsResponse, error_responses
from backend.api.streaming import cache_word
from backend.service.ledger import SEMANTIC
from backend.telemetry.metrics import PROMETHEUS_MEDIA_TYPE
from backend.telemetry.recent import RequestRecord, Stage

router = APIRouter(prefix="/metrics", tags=["operation"])

_PROMETHEUS_ACCEPTS = ("text/plain", "application/openmetrics-text")
_FIGURES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": True,
    "description": "Counters and timings by name; a name ends in its unit.",
}
_TEXT_ANSWER: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}


@router.get(
    "",
    summary="Counters and timings",
    response_class=JSONResponse,
    responses={200: {"content": {JSON: {"schema": _FIGURES}, **_TEXT_ANSWER}}},
)
async def metrics(request: Request, context: Context) -> Response:
    """Give everything that is counted: JSON, or Prometheus' text when `Accept` asks for it."""
    accepted = request.headers.get("accept", "")
    if any(kind in accepted for kind in _PROMETHEUS_ACCEPTS):
        return await _prometheus(context)
    return JSONResponse(await context.pool.run(context.service.metrics.snapshot))


@router.get(
    "/prometheus",
    summary="Counters and timings for Prometheus",
    response_class=Response,
    responses={200: {"content": _TEXT_ANSWER}},
)
async def prometheus(context: Context) -> Response:
    """Give everything that is counted in Prometheus' text format."""
    return await _prometheus(context)


@router.get("/requests", summary="What the last requests cost")
async def newest_requests(
    context: Context, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> RequestsResponse:
    """Give what the newest finished requests cost, newest first."""
    records = context.service.recent.newest(limit)
    return RequestsResponse(requests=[_figures(record) for record in records])


@router.get(
    "/requests/{request_id}", summary="What one request cost", responses=error_responses(404)
)
async def request_figures(request_id: str, context: Context) -> RequestFiguresResponse:
    """Give what a finished request cost. Streams have no later place for these figures."""
    return _figures(context.service.recent.find(request_id))


async def _prometheus(context: ApiContext) -> Response:
    # Both kinds read the card, which may take milliseconds.
    text = await context.pool.run(context.service.metrics.prometheus_text)
    return Response(text, media_type=PROMETHEUS_MEDIA_TYPE)


def _figures(record: RequestRecord) -> RequestFiguresResponse:
    stages_s = record.stages_s or {}
    hits = record.cache_hits or {}
    return RequestFiguresResponse(
        request_id=record.request_id,
        status=record.status.value,
        started_at=record.started_at,
        error=record.error,
        voice=record.voice,
        format=record.format,
        seed=record.seed,
        num_chars=record.num_chars,
        num_frames=record.num_frames,
        finish_reason=record.finish_reason,
        audio_duration_s=record.audio_s,
        ttfa_ms=_ms(record.ttfa_s),
        latency_ms=_ms(record.total_s),
        queue_ms=_ms(stages_s.get(Stage.QUEUE)),
        rtf=record.rtf,
        x_realtime=record.x_realtime,
        stages_ms={stage.value: spent_s * 1000 for stage, spent_s in stages_s.items()},
        cache=cache_word(hits.get(SEMANTIC)),
        cache_hits=hits,
        troubles=list(record.troubles),
        peak_vram_mb=None if record.peak_vram_bytes is None else record.peak_vram_bytes / (1 << 20),
        gpu_util_pct=record.gpu_percent,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
