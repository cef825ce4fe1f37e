"""``GET /docs``: the interactive documentation, from files on this machine only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import fastapi_offline
from fastapi import APIRouter
from fastapi import Path as PathParam
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

OPENAPI_URL = "/openapi.json"

_DIRECTORY = Path(fastapi_offline.__file__).parent / "static"
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
)
"""The page's own start script is inline; nothing may be fetched from elsewhere."""
_ONE_DAY = "public, max-age=86400"


@router.get("/docs")
async def page() -> HTMLResponse:
    """Show Swagger UI."""
    answer = get_swagger_ui_html(
        openapi_url=OPENAPI_URL,
        title="Fish Speech server",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon.png",
        # validatorUrl: its default is a service in the internet
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
    )
    answer.headers["Content-Security-Policy"] = _POLICY
    return answer


@router.get("/docs/assets/{name}")
async def asset(name: Annotated[str, PathParam(max_length=64)]) -> FileResponse:
    """Give one of the page's files; any other name does not exist."""
    media_type = _ASSETS.get(name)
    if media_type is None:
        raise HTTPException(404)
    return FileResponse(
        _DIRECTORY / name, media_type=media_type, headers={"Cache-Control": _ONE_DAY}
    )
