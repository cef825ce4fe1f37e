"""``POST /cache/clear``: empty the caches."""

from __future__ import annotations

from fastapi import APIRouter, Request

from backend.api.bodies import JSON, read_json
from backend.api.context import Context
from backend.api.schemas import CacheClearRequest, CacheClearResponse, error_responses

router = APIRouter(prefix="/cache", tags=["operation"])

_BODY = {"content": {JSON: {"schema": CacheClearRequest.model_json_schema()}}}


@router.post(
    "/clear",
    summary="Empty the caches",
    responses=error_responses(413, 422),
    openapi_extra={"requestBody": _BODY},
)
async def clear(request: Request, context: Context) -> CacheClearResponse:
    """Empty one cache or, without a body, all. Counters of hits and misses stay."""
    chosen = (await read_json(request, CacheClearRequest)).cache
    cleared = await context.service.clear_caches(None if chosen == "all" else chosen)
    return CacheClearResponse(cleared=cleared)
