"""Speech as an HTTP answer, and what happens when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from backend.service.ledger import SEMANTIC, VOICE_CODES, SpeechLedger
from backend.service.requests import Speech
from backend.telemetry.recent import Stage

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)

STALL_TIMEOUT_S = 120.0
"""Longer than players wait that fill a buffer and play it empty."""

NO_VOICE = "none"
"""``X-Voice`` of speech whose voice was drawn by the seed."""

SPEECH_HEADERS = (
    "X-Request-Id",
    "X-Seed",
    "X-Sample-Rate",
    "X-Voice",
    "X-Cache",
    "X-Voice-Cache",
    "X-TTFA-Ms",
    "X-Queue-Ms",
    "X-Latency-Ms",
    "X-RTF",
    "X-Audio-Duration-S",
    "X-Num-Frames",
    "X-Finish-Reason",
    "X-Segments",
    "X-Peak-VRAM-Mb",
    "X-GPU-Util-Pct",
    "X-Warning",
)
"""Headers that web pages of other origins may read (CORS)."""


async def while_connected(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Wait for ``work``, and cancel it when the client leaves first.

    Args:
        request: Its body has been read to the end.
        work: What is done for the client.

    Raises:
        ClientDisconnect: The client left; ``work`` has ended.
        Exception: Whatever ``work`` raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _end(working, leaving)


class PiecesResponse(Response):
    """Send a body as it is made. A client that leaves ends the work; so does an error.

    An error after the first byte cuts the connection: it is the only way left to tell the client.
    So is a client that takes nothing for a while, because it would hold its slot for ever.

    Args:
        body: The pieces; closed at the end, whichever way it comes.
        media_type: Of the answer.
        headers: Of the answer, besides the content type.
        stall_timeout_s: How long a client may take nothing.
    """

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        media_type: str,
        headers: dict[str, str],
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._pieces = body
        self._stall_timeout_s = stall_timeout_s
        self.init_headers({**headers, "content-type": media_type})

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the body piece by piece."""
        return self._pieces

    async def aclose(self) -> None:
        """Stop work that is not done."""
        await self._pieces.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send start, chunks and end."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_client_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, leaving)
            await self.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self.pieces():
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    await send(message)
            except TimeoutError:
                logger.warning("the client took nothing for %g s", self._stall_timeout_s)
                return  # without its end the server cuts the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class SpeechResponse(PiecesResponse):
    """Send speech as it is made.

    Args:
        speech: Closed at the end, whichever way it comes.
        headers: Of the answer, besides the content type.
        stall_timeout_s: How long a client may take nothing.
        media_type: Of the answer; None takes the speech's own.
    """

    def __init__(
        self,
        speech: Speech,
        headers: dict[str, str],
        stall_timeout_s: float = STALL_TIMEOUT_S,
        media_type: str | None = None,
    ) -> None:
        super().__init__(speech.chunks(), media_type or speech.media_type, headers, stall_timeout_s)
        self.speech = speech

    async def aclose(self) -> None:
        """Stop work that is not done."""
        await super().aclose()
        await self.speech.aclose()


def early_headers(speech: Speech) -> dict[str, str]:
    """Give the headers that are known with the first sound."""
    ledger = speech.ledger
    headers = {
        "X-Seed": str(ledger.seed),
        "X-Sample-Rate": str(speech.sample_rate),
        "X-Voice": NO_VOICE if ledger.voice is None else quote(ledger.voice),
        "X-Cache": cache_word(ledger.cache_hits.get(SEMANTIC)),
        "X-Segments": str(ledger.num_segments),
        "Content-Disposition": f'inline; filename="speech.{speech.extension}"',
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would hold a stream back
    }
    if VOICE_CODES in ledger.cache_hits:
        headers["X-Voice-Cache"] = cache_word(ledger.cache_hits[VOICE_CODES])
    headers |= _known_ms(
        {"X-TTFA-Ms": ledger.ttfa_s, "X-Queue-Ms": ledger.stages_s.get(Stage.QUEUE)}
    )
    if ledger.peak_vram_bytes is not None:
        headers["X-Peak-VRAM-Mb"] = f"{ledger.peak_vram_bytes / (1 << 20):.1f}"
    if ledger.gpu_percent is not None:
        headers["X-GPU-Util-Pct"] = str(ledger.gpu_percent)
    if ledger.warnings:
        headers["X-Warning"] = "; ".join(ledger.warnings)
    return headers


def with_warnings(headers: dict[str, str], warnings: Sequence[str]) -> dict[str, str]:
    """Give the headers with more to know in ``X-Warning``."""
    told = [headers["X-Warning"]] if "X-Warning" in headers else []
    together = "; ".join([*told, *warnings])
    if not together:
        return headers
    plain = together.encode("ascii", "backslashreplace").decode("ascii")
    return {**headers, "X-Warning": " ".join(plain.split())}


def late_headers(ledger: SpeechLedger) -> dict[str, str]:
    """Give the headers that are known when everything has been spoken."""
    headers = {
        "X-Audio-Duration-S": f"{ledger.audio_s or 0.0:.3f}",
        "X-Num-Frames": str(ledger.num_frames),
        **_known_ms(
            {"X-Latency-Ms": ledger.total_s, "X-Queue-Ms": ledger.stages_s.get(Stage.QUEUE)}
        ),
    }
    if ledger.rtf is not None:
        headers["X-RTF"] = f"{ledger.rtf:.4f}"
    if ledger.finish_reason is not None:
        headers["X-Finish-Reason"] = ledger.finish_reason.value
    return headers


def cache_word(is_hit: bool | None) -> str:
    """Say ``hit`` or ``miss``; empty when the cache was not asked."""
    return "" if is_hit is None else "hit" if is_hit else "miss"


def _known_ms(spent_s: dict[str, float | None]) -> dict[str, str]:
    """Give times as headers; what is not known is absent rather than 0."""
    return {
        name: f"{seconds * 1000:.1f}" for name, seconds in spent_s.items() if seconds is not None
    }


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs and wait until it has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
