"""``GET /models``: what speaks, and what else could."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from backend.api.context import Context
from backend.core.types import EngineState
from backend.service.models import installed_models

router = APIRouter(tags=["speech"])


class ModelResponse(BaseModel):
    """A model; facts that only a loaded one has are null for the others."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The value of the server's setting `MODEL` that loads it."""
    loaded: bool
    """Whether it speaks now."""
    license: str
    device: str | None
    precision: str | None
    sample_rate: int | None
    """Hz."""
    voices: int | None
    """Voices to choose from."""


class ModelsResponse(BaseModel):
    """All models, the configured one first."""

    models: list[ModelResponse]


@router.get("/models", summary="List the models")
async def list_models(context: Context) -> ModelsResponse:
    """List the configured model and the others that are installed.

    One model is loaded at a time; set `MODEL` and restart to load another.
    """
    service = context.service
    info = service.info if service.status().state is EngineState.READY else None
    found = await context.pool.run(installed_models, context.settings)
    models = [
        ModelResponse(
            id=model.id,
            loaded=model.is_loaded and info is not None,
            license=model.licence,
            device=info.device if info and model.is_loaded else None,
            precision=info.precision if info and model.is_loaded else None,
            sample_rate=info.sample_rate if info and model.is_loaded else None,
            voices=len(service.voices().voices) if info and model.is_loaded else None,
        )
        for model in found
    ]
    return ModelsResponse(models=models)
