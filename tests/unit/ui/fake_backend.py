"""A small stand-in for the backend: the same HTTP interface, a sine instead of speech."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

SAMPLE_RATE = 24_000
SECONDS_PER_WORD = 0.4
VOICES = [
    {"name": "kit", "description": "A clear, low voice", "language": "en", "duration_s": 4.5,
     "is_default": True},
    {"name": "sally", "description": "Bright and friendly", "language": "en", "duration_s": 5.1,
     "is_default": False},
]  # fmt: skip
MARKERS = {
    "known_by_model": True, "note": "", "count": 3,
    "groups": [
        {"name": "emotions", "use": "At the start of a sentence.",
         "markers": [{"marker": "(excited)", "use": "Lively", "example": "(excited) We won!"},
                     {"marker": "(sad)", "use": "Low", "example": "(sad) It is over."}]},
        {"name": "effects", "use": "Anywhere in a sentence.",
         "markers": [{"marker": "(laughing)", "use": "A laugh", "example": "(laughing) Ha, ha!"}]},
    ]
}  # fmt: skip


@dataclass
class FakeBackend:
    """What the stand-in was asked, and how it is to behave.

    Attributes:
        requests: Fields of every ``POST /tts``; a recording as ``(name, bytes)``.
        gate: Chunks after the first wait for it; set by default.
        breaks_after: Cut the stream after so many chunks.
    """

    requests: list[dict[str, object]] = field(default_factory=list)
    voices: list[dict[str, object]] = field(default_factory=lambda: list(VOICES))
    gate: threading.Event = field(default_factory=threading.Event)
    breaks_after: int | None = None
    status: str = "ready"
    gpus: list[dict[str, object]] = field(default_factory=list)
    uptime_s: float = 61.0
    caches_cleared: int = 0
    streams_ended: int = 0
    when_stream_ends: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.gate.set()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/tts", self.tts, methods=["POST"]),
                Route("/voices", self.list_voices),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                Route("/metrics/requests/{request_id}", self.figures),
                Route("/emotions", self.emotions),
                Route("/cache/clear", self.clear_cache, methods=["POST"]),
            ]
        )

    async def tts(self, request: Request) -> Response:
        fields: dict[str, object] = {}
        async with request.form() as form:
            for name, value in form.items():
                is_file = isinstance(value, UploadFile)
                fields[name] = (value.filename, await value.read()) if is_file else value
        self.requests.append(fields)
        request_id = f"req-{len(self.requests)}"
        text = str(fields.get("text", ""))
        if not text.strip():
            return refusal(422, "the text is empty: send something to speak", "text", request_id)
        known = [str(voice["name"]) for voice in self.voices]
        voice = str(fields.get("voice", known[0]))
        if voice not in known:
            return refusal(404, f"there is no voice {voice!r}", "voice", request_id)
        sound = sine(len(text.split()) * SECONDS_PER_WORD)
        kind = str(fields.get("format", "wav"))
        headers = {
            "X-Request-Id": request_id, "X-Seed": str(fields.get("seed", 42)), "X-Voice": voice,
            "X-Sample-Rate": str(SAMPLE_RATE), "X-Cache": "miss", "X-TTFA-Ms": "84.2",
        }  # fmt: skip
        if fields.get("stream") == "true":
            pcm = self._pieces(sound.tobytes())
            return StreamingResponse(pcm, headers=headers, media_type=f"audio/{kind}")
        headers |= {
            "X-Latency-Ms": "412.5", "X-RTF": "0.31",
            "X-Audio-Duration-S": str(len(sound) / SAMPLE_RATE),
        }  # fmt: skip
        return Response(encoded(sound, kind), headers=headers, media_type=f"audio/{kind}")

    async def _pieces(self, pcm: bytes) -> AsyncIterator[bytes]:
        size = SAMPLE_RATE // 5 + 1  # odd: pieces need not end where a sample ends
        try:
            for number, start in enumerate(range(0, len(pcm), size)):
                if number == self.breaks_after:
                    raise ConnectionAbortedError("told to break")
                if number:
                    await to_thread.run_sync(self.gate.wait, 30)
                yield pcm[start : start + size]
        finally:
            self.streams_ended += 1
            self.when_stream_ends()

    async def list_voices(self, _: Request) -> Response:
        return JSONResponse({"voices": self.voices})

    async def health(self, _: Request) -> Response:
        body = {
            "status": self.status, "detail": "", "model": "pocket",
            "device": "cpu", "precision": "fp32",
            "sample_rate": SAMPLE_RATE, "version": "0.1.0", "uptime_s": self.uptime_s,
            "notes": [], "gpus": self.gpus, "memory_bytes": 500_000_000,
            "queue": {"running": 0, "waiting": 0, "max_running": 4, "max_waiting": 64},
        }  # fmt: skip
        return JSONResponse(body, status_code=200)

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(
            "# HELP tts_requests_total Requests.\n# TYPE tts_requests_total counter\n"
            f'tts_requests_total{{outcome="ok"}} {float(len(self.requests))}\n'
        )

    async def figures(self, request: Request) -> Response:
        number = int(request.path_params["request_id"].removeprefix("req-"))
        duration_s = len(str(self.requests[number - 1]["text"]).split()) * SECONDS_PER_WORD
        return JSONResponse(
            {
                "request_id": f"req-{number}", "status": "ok", "ttfa_ms": 84.2,
                "latency_ms": 412.5, "rtf": 0.31, "audio_duration_s": duration_s, "cache": "miss",
                "cache_hits": {"voice_codes": True, "semantic": False},
            }
        )  # fmt: skip

    async def emotions(self, _: Request) -> Response:
        return JSONResponse(MARKERS)

    async def clear_cache(self, _: Request) -> Response:
        self.caches_cleared += 1
        return JSONResponse({"cleared": {"voice_codes": 0, "semantic": 2}})


def sine(seconds: float) -> np.ndarray:
    """``[S]`` int16, 220 Hz under a slow swell, so that a waveform looks like something."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    swell = 0.35 + 0.3 * np.sin(2 * np.pi * 1.3 * time) * np.sin(2 * np.pi * 0.37 * time)
    return (32767 * swell * np.sin(2 * np.pi * 220 * time)).astype("<i2")


def encoded(sound: np.ndarray, kind: str) -> bytes:
    if kind == "pcm":
        return sound.tobytes()
    container, subtype = {
        "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"),
        "opus": ("OGG", "OPUS"),
    }[kind]  # fmt: skip
    file = io.BytesIO()
    soundfile.write(file, sound, SAMPLE_RATE, format=container, subtype=subtype)
    return file.getvalue()


def refusal(status: int, message: str, param: str, request_id: str) -> Response:
    error = {"type": "refused", "message": message, "param": param, "request_id": request_id}
    return JSONResponse({"error": error}, status_code=status)
