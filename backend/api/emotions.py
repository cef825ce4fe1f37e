"""``GET /emotions``: the markers for feeling, tone and sound."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.context import Context
from backend.api.schemas import EmotionsResponse, MarkerGroupResponse, MarkerResponse
from backend.service.emotions import ALL_MARKERS, MARKER_GROUPS, known_markers

router = APIRouter(tags=["speech"])

_ALL_KNOWN = "Write a marker into the text, as in the examples. The loaded model knows all of them."
_UNSURE = (
    "Write a marker into the text, as in the examples. Whether the loaded model was trained with "
    "them is not known; openaudio-s1-mini knows all of them."
)


@router.get("/emotions", summary="List the markers")
async def list_emotions(context: Context) -> EmotionsResponse:
    """List all markers by kind, with use and example, and which of them the loaded model knows."""
    info = context.service.info
    known = known_markers(info.model if info else context.settings.model)
    groups = [
        MarkerGroupResponse(
            name=group.name,
            use=group.use,
            markers=[
                MarkerResponse(
                    marker=m.marker,
                    use=m.use,
                    example=m.example,
                    known_by_model=None if known is None else m.name in known,
                )
                for m in group.markers
            ],
        )
        for group in MARKER_GROUPS
    ]
    return EmotionsResponse(
        known_by_model=None if known is None else bool(known),
        note=_note(known),
        count=sum(len(group.markers) for group in groups),
        groups=groups,
    )


def _note(known: frozenset[str] | None) -> str:
    if known is None:
        return _UNSURE
    if known >= ALL_MARKERS:
        return _ALL_KNOWN
    names = ", ".join(f"({name})" for name in sorted(known))
    return (
        f"The loaded model knows {len(known)} markers: {names}. Others are left out of the text, "
        "and the header X-Warning says so; openaudio-s1-mini knows all of them."
    )
