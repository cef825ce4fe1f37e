"""``POST /v1/vqgan/encode`` and ``decode``: recordings to codes and back, without speaking."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from backend.api.bodies import JSON
from backend.api.context import Context
from backend.api.errors import request_id_of
from backend.api.fish.bodies import MSGPACK, read_body, reply
from backend.api.fish.schemas import Bytes
from backend.api.standalone_schema import standalone_schema
from backend.api.streaming import while_connected
from backend.core.errors import InvalidInputError

router = APIRouter(tags=["Fish dialect"])

MAX_ITEMS = 8
_MAX_CODE = 2**31 - 1

_Code = Annotated[int, Field(ge=0, le=_MAX_CODE)]


class EncodeBody(BaseModel):
    """Recordings to encode."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    audios: Annotated[
        list[Annotated[Bytes, Field(json_schema_extra={"contentEncoding": "base64"})]],
        Field(min_length=1, max_length=MAX_ITEMS),
    ]
    """Files in any format; in JSON as base64."""


class DecodeBody(BaseModel):
    """Codes to decode."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    tokens: Annotated[list[list[list[_Code]]], Field(min_length=1, max_length=MAX_ITEMS)]
    """For each sound one row of codes for each codebook."""


def _described(schema: type[BaseModel]) -> dict[str, Any]:
    content = standalone_schema(schema)
    body = {"required": True, "content": {kind: {"schema": content} for kind in (MSGPACK, JSON)}}
    return {"requestBody": body}


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "In msgpack, or in JSON where the request is JSON.",
        "content": {kind: {"schema": {"type": "object"}} for kind in (MSGPACK, JSON)},
    },
    400: {},
    415: {},
    429: {},
    503: {},
}


@router.post(
    "/v1/vqgan/encode",
    summary="Turn recordings into codes",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=_described(EncodeBody),
)
async def encode(request: Request, context: Context) -> Response:
    """Give `tokens`: for each recording one row of codes for each codebook of the model."""
    body = await read_body(request, EncodeBody)
    tokens = [
        (await while_connected(request, context.service.encode_recording(audio))).tolist()
        for audio in body.audios
    ]
    return reply(request, {"tokens": tokens})


@router.post(
    "/v1/vqgan/decode",
    summary="Turn codes into sound",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=_described(DecodeBody),
)
async def decode(request: Request, context: Context) -> Response:
    """Give `audios`: for each item its samples as little-endian float16, mono, at the model's rate.

    In JSON the bytes are base64.
    """
    body = await read_body(request, DecodeBody)
    request_id = request_id_of(request)
    audios: list[bytes] = []
    for idx, rows in enumerate(body.tokens):
        if len({len(row) for row in rows}) != 1:
            raise InvalidInputError(f"tokens[{idx}]: all rows of codes must have the same length")
        codes = np.asarray(rows, dtype=np.int32)
        work = context.service.decode_codes(codes, f"{request_id}/codes-{idx}")
        samples = await while_connected(request, work)
        audios.append(samples.astype("<f2").tobytes())
    return reply(request, {"audios": audios})
