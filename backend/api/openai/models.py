"""``GET /v1/models`` and ``GET /v1/audio/models``: the names that mean the loaded model."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.context import Context
from backend.api.openai.names import model_names, require_model
from backend.api.openai.schemas import AudioModel, AudioModelList, ModelList, ModelObject

router = APIRouter(tags=["OpenAI dialect"])

OWNER = "self-hosted"


@router.get("/v1/models", summary="List the models (OpenAI)")
async def list_models(context: Context) -> ModelList:
    """List every name that can be sent as `model`; all mean the one loaded model."""
    created = int(context.started_at)
    data = [ModelObject(id=name, created=created, owned_by=OWNER) for name in model_names(context)]
    return ModelList(data=data)


@router.get("/v1/models/{model_id:path}", summary="Describe a model (OpenAI)")
async def get_model(model_id: str, context: Context) -> ModelObject:
    """Describe one of the names."""
    require_model(model_id, context)
    return ModelObject(id=model_id, created=int(context.started_at), owned_by=OWNER)


@router.get("/v1/audio/models", summary="List the models that speak (Open WebUI)")
async def list_audio_models(context: Context) -> AudioModelList:
    """List the models as Open WebUI asks for them."""
    return AudioModelList(models=[AudioModel(id=name, name=name) for name in model_names(context)])
