"""What Fish Audio's clients ask besides speech: health, the account, and what is not offered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from backend.api.context import ApiContext, Context
from backend.core.errors import NotOfferedError

router = APIRouter(tags=["Fish dialect"])

SELF_HOSTED = "self-hosted"
UNLIMITED = 2**31 - 1
"""There is nothing to pay for here. Clients read numbers, and this is the largest that all can."""


@router.get("/v1/health", summary="Whether the server answers (Fish Audio)")
@router.post("/v1/health", summary="Whether the server answers (Fish Audio)")
async def health() -> dict[str, str]:
    """Say that the process answers; `GET /health/ready` tells whether it can speak."""
    return {"status": "ok"}


@router.get("/wallet/self/api-credit", summary="The credit (Fish Audio)")
async def api_credit(context: Context) -> dict[str, Any]:
    """Say that credit is unlimited: the server is your own."""
    return {
        **_record("api-credit", context),
        "credit": str(UNLIMITED),
        "has_phone_sha256": False,
        "has_free_credit": True,
    }


@router.get("/wallet/self/package", summary="The package (Fish Audio)")
async def package(context: Context) -> dict[str, Any]:
    """Say that the package is unlimited: the server is your own."""
    return {
        **_record("package", context),
        "type": SELF_HOSTED,
        "total": UNLIMITED,
        "balance": UNLIMITED,
        "finished_at": "",
    }


@router.post(
    "/v1/asr",
    summary="Speech to text is not offered",
    response_class=Response,
    responses={501: {}},
)
async def transcribe() -> Response:
    """Refuse: this server speaks and does not listen."""
    raise NotOfferedError(
        "speech recognition (/v1/asr) is not offered: this server only speaks. Point the client at "
        "a recognizer for this call"
    )


def _record(name: str, context: ApiContext) -> dict[str, Any]:
    started = datetime.fromtimestamp(context.started_at, UTC).isoformat()
    return {
        "_id": f"{SELF_HOSTED}-{name}",
        "user_id": SELF_HOSTED,
        "created_at": started,
        "updated_at": started,
    }
