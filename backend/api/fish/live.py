"""``WS /v1/tts/live``: text comes in while it is written, sound goes out while it is made.

Messages are msgpack maps in binary frames::

    client: start {request}  ->  text {text} ...  ->  flush (any time)  ->  stop
    server: audio {audio} ...  ->  finish {reason: "stop" | "error"}

A sentence is spoken as soon as the next one begins. All pieces of ``audio`` joined are one file.
A connection holds a place in the engine only while there is something to speak.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any, cast

import ormsgpack
from fastapi import APIRouter, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.websockets import WebSocketDisconnect

from backend.api.context import ApiContext
from backend.api.errors import ERROR_TABLE, validation_message
from backend.api.fish.bodies import parse, unpack
from backend.api.fish.schemas import StartEvent, TextEvent, speech_request
from backend.api.fish.tts import find_voice
from backend.api.streaming import STALL_TIMEOUT_S
from backend.core.errors import InvalidTextError, TTSError
from backend.service.live_text import LiveText
from backend.service.requests import SpeechRequest
from backend.telemetry.logs import request_context

router = APIRouter()

logger = logging.getLogger(__name__)

_NORMAL, _REFUSED, _FAILED = 1000, 1008, 1011
_SERVER_ERROR = 500
_MAX_REASON_BYTES = 120


class _ProtocolError(Exception):
    """The client sent what cannot be understood at this point; the message says what."""


@router.websocket("/v1/tts/live")
async def speak_live(websocket: WebSocket) -> None:
    """Serve one connection."""
    context = cast("ApiContext", websocket.app.state.context)
    request_id = str(websocket.state.request_id)
    await websocket.accept()
    with request_context(request_id):
        await _LiveConnection(websocket, context, request_id).serve()


class _LiveConnection:
    """One connection and the speech that belongs to it.

    Args:
        websocket: Accepted.
        context: What the routes share.
        request_id: Names the speech in logs and metrics.
    """

    def __init__(self, websocket: WebSocket, context: ApiContext, request_id: str) -> None:
        self._websocket = websocket
        self._context = context
        self._request_id = request_id
        self._text = LiveText(context.settings.max_text_chars)

    async def serve(self) -> None:
        """Read and speak at the same time, until either ends."""
        try:
            request = await self._read_start()
            await self._read_and_speak(request)
        except WebSocketDisconnect:
            logger.info("the client of a live connection left")
        except (_ProtocolError, RequestValidationError, TTSError) as error:
            await self._fail(error)

    async def _read_start(self) -> SpeechRequest:
        event = await self._receive()
        if event.get("event") != "start":
            raise _ProtocolError("the first event must be start, with the request")
        body = parse(event, StartEvent).request
        voice = find_voice(body.reference_id, self._context)
        self._text.feed(body.text)
        for warning in body.warnings():
            await self._send({"event": "log", "level": "warning", "message": warning})
        return speech_request(body, voice, self._request_id, self._text)

    async def _read_and_speak(self, request: SpeechRequest) -> None:
        reading = asyncio.ensure_future(self._read())
        speaking = asyncio.ensure_future(self._speak(request))
        try:
            await asyncio.wait({reading, speaking}, return_when=asyncio.FIRST_COMPLETED)
            done = speaking if speaking.done() else reading
            done.result()
        finally:
            for task in (reading, speaking):
                task.cancel()
            await asyncio.gather(reading, speaking, return_exceptions=True)
        await self._send({"event": "finish", "reason": "stop"})
        await self._websocket.close(_NORMAL)

    async def _read(self) -> None:
        """Take text until the client leaves; what comes after its stop has no effect."""
        is_stopped = False
        while True:
            event = await self._receive()
            kind = event.get("event")
            if is_stopped:
                continue
            if kind == "text":
                self._text.feed(parse(event, TextEvent).text)
            elif kind == "flush":
                self._text.flush()
            elif kind == "stop":
                self._text.end()
                is_stopped = True
            elif kind == "start":
                raise _ProtocolError("the connection has begun already; start comes once")

    async def _speak(self, request: SpeechRequest) -> None:
        try:
            speech = await self._context.service.speak(request)
        except InvalidTextError:
            return  # it ended without a word: there is nothing to say, which is no error
        try:
            async with aclosing(speech.chunks()) as chunks:
                async for chunk in chunks:
                    await self._send({"event": "audio", "audio": chunk})
        finally:
            await speech.aclose()

    async def _receive(self) -> dict[str, Any]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        content = message.get("bytes")
        if content is None:
            raise _ProtocolError("events are msgpack maps in binary frames, not text frames")
        event = unpack(content)
        if not isinstance(event, dict):
            raise _ProtocolError("an event is a msgpack map with the key event")
        return cast("dict[str, Any]", event)

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                await self._websocket.send_bytes(ormsgpack.packb(event))
        except TimeoutError:
            logger.warning("the client took nothing for %g s", STALL_TIMEOUT_S)
            raise WebSocketDisconnect(_REFUSED, "the client took nothing") from None

    async def _fail(self, error: _ProtocolError | RequestValidationError | TTSError) -> None:
        """Tell what went wrong, as an event and as the reason of the close."""
        message = (
            validation_message(error.errors())
            if isinstance(error, RequestValidationError)
            else str(error)
        )
        logger.info("a live connection failed: %s: %s", type(error).__name__, message)
        is_ours = isinstance(error, TTSError) and ERROR_TABLE[type(error)].status >= _SERVER_ERROR
        try:
            await self._send({"event": "finish", "reason": "error", "message": message})
            reason = message.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await self._websocket.close(_FAILED if is_ours else _REFUSED, reason)
        except (WebSocketDisconnect, RuntimeError):
            logger.info("the client left before it could be told")
