"""``GET /``: where to go from here."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.context import Context
from backend.api.schemas import RootResponse

router = APIRouter(tags=["operation"])

NAME = "fish-speech-server"


@router.get("/", summary="Where to go from here")
async def root(context: Context) -> RootResponse:
    """Name the service and its endpoints."""
    return RootResponse(
        name=NAME,
        version=context.version,
        docs="/docs",
        endpoints={
            "POST /tts": "speak a text",
            "POST /tts/batch": "speak many texts into one ZIP",
            "POST /jobs": "speak a long text in the background",
            "GET /models": "list the models",
            "GET /voices": "list the voices",
            "GET /emotions": "list the markers for feeling, tone and sound",
            "GET /health": "how the service is",
            "GET /metrics": "counters and timings",
            "POST /cache/clear": "empty the caches",
            "POST /v1/audio/speech": "speak a text (OpenAI's dialect, also /v1/models)",
            "POST /v1/tts": "speak a text (Fish Audio's dialect, also /model)",
            "WS /v1/tts/live": "speak a text while it is written (Fish Audio's dialect)",
        },
    )
