"""``GET /emotions``: the markers for feeling, tone and sound."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.context import Context
from backend.api.schemas import EmotionsResponse, MarkerGroupResponse, MarkerResponse
from backend.service.emotions import MARKER_GROUPS, knows_markers

router = APIRouter(tags=["speech"])

_NOTES = {
    True: "Write a marker into the text, as in the examples. The loaded model knows all of them.",
    False: (
        "The loaded model was not trained with markers: they are left out of the text, and the "
        "header X-Warning says so. openaudio-s1-mini knows all of them."
    ),
    None: (
        "Write a marker into the text, as in the examples. Whether the loaded model was trained "
        "with them is not known; openaudio-s1-mini knows all of them."
    ),
}


@router.get("/emotions", summary="List the markers")
async def list_emotions(context: Context) -> EmotionsResponse:
    """List all markers by kind, with use and example, and whether the loaded model knows them."""
    info = context.service.info
    known = knows_markers(info.model if info else context.settings.model)
    groups = [
        MarkerGroupResponse(
            name=group.name,
            use=group.use,
            markers=[
                MarkerResponse(marker=m.marker, use=m.use, example=m.example) for m in group.markers
            ],
        )
        for group in MARKER_GROUPS
    ]
    count = sum(len(group.markers) for group in groups)
    return EmotionsResponse(known_by_model=known, note=_NOTES[known], count=count, groups=groups)
