"""``GET /voices``: the voices to choose from."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.context import Context
from backend.api.schemas import VoiceResponse, VoicesResponse, error_responses

router = APIRouter(tags=["speech"])


@router.get("/voices", summary="List the voices", responses=error_responses(503))
async def list_voices(context: Context) -> VoicesResponse:
    """List the voices of the loaded model, by name."""
    voices = [
        VoiceResponse(
            name=voice.name,
            description=voice.description,
            language=voice.language,
            text=voice.turn.text,
            duration_s=round(voice.duration_s, 3),
            is_default=voice.is_default,
        )
        for voice in context.service.voices().voices
    ]
    return VoicesResponse(voices=voices)
