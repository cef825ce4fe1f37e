"""All routes of OpenAI's dialect."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.openai import models, speech, voices

router = APIRouter()
for part in (speech.router, models.router, voices.router):
    router.include_router(part)
