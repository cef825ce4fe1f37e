"""All routes of Fish Audio's dialect."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.fish import account, live, model, references, tts, vqgan

router = APIRouter()
for part in (
    tts.router,
    live.router,
    model.router,
    references.router,
    vqgan.router,
    account.router,
):
    router.include_router(part)
