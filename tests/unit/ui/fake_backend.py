"""A small stand-in for the backend: the same HTTP interface, a sine instead of speech."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.unit.ui.fake_jobs import FakeJobs
from tests.unit.ui.fake_voices import FakeVoices, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

SAMPLE_RATE = 24_000
SECONDS_PER_WORD = 0.4
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
        library: Its voices.
        jobs: Its jobs.
        breaks_after: Cut the stream after so many chunks.
        api_key: What ``Authorization`` has to say; empty lets everybody in.
    """

    requests: list[dict[str, object]] = field(default_factory=list)
    library: FakeVoices = field(default_factory=FakeVoices)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    gate: threading.Event = field(default_factory=threading.Event)
    breaks_after: int | None = None
    status: str = "ready"
    gpus: list[dict[str, object]] = field(default_factory=list)
    uptime_s: float = 61.0
    api_key: str = ""
    caches_cleared: list[str] = field(default_factory=list)
    streams_ended: int = 0
    when_stream_ends: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.gate.set()
        preview = io.BytesIO()
        soundfile.write(preview, sine(0.5), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        self.library.preview_sound = self.jobs.sound = preview.getvalue()

    @property
    def voices(self) -> list[dict[str, Any]]:
        return self.library.voices

    @voices.setter
    def voices(self, voices: list[dict[str, Any]]) -> None:
        self.library.voices = voices

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/tts", self.tts, methods=["POST"]),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                Route("/metrics/requests", self.recent),
                Route("/metrics/requests/{request_id}", self.figures),
                Route("/emotions", self.emotions),
                Route("/cache/clear", self.clear_cache, methods=["POST"]),
                *self.library.routes(),
                *self.jobs.routes(),
            ],
            middleware=[Middleware(Guard, backend=self)],
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

    async def health(self, _: Request) -> Response:
        body = {
            "status": self.status, "detail": "", "model": "pocket",
            "device": "cpu", "precision": "fp32",
            "sample_rate": SAMPLE_RATE, "version": "0.1.0", "uptime_s": self.uptime_s,
            "notes": [], "gpus": self.gpus, "memory_bytes": 500_000_000,
            "queue": {"running": 0, "waiting": 0, "max_running": 4, "max_waiting": 64},
        }  # fmt: skip
        return JSONResponse(body, status_code=200)

    async def metrics(self, request: Request) -> Response:
        count = len(self.requests)
        if "json" not in request.headers["accept"]:
            return PlainTextResponse(
                "# HELP tts_requests_total Requests.\n# TYPE tts_requests_total counter\n"
                f'tts_requests_total{{outcome="ok"}} {float(count)}\n'
            )
        spread = {"count": count, "last": 0.4, "p50": 0.4, "p95": 0.5}
        cache = {"hits": 1, "misses": 3, "entries": 2, "size_bytes": 4096, "budget_bytes": 2**28}
        return JSONResponse(
            {
                "uptime_s": self.uptime_s, "audio_s": 1.2 * count, "errors": {},
                "requests": {"total": count, "in_progress": 0, "by_status": {"ok": count}},
                "latency": {"ttfa_s": spread, "total_s": spread, "rtf": spread},
                "caches": {"voice_codes": cache, "semantic": cache},
                "engine": None, "gpu": {"available": False},
            }
        )  # fmt: skip

    async def figures(self, request: Request) -> Response:
        return JSONResponse(self._cost(int(request.path_params["request_id"].removeprefix("req-"))))

    async def recent(self, _: Request) -> Response:
        costs = [self._cost(number) for number in range(len(self.requests), 0, -1)]
        return JSONResponse({"requests": costs})

    def _cost(self, number: int) -> dict[str, Any]:
        request = self.requests[number - 1]
        return {
            "request_id": f"req-{number}", "status": "ok", "started_at": 1.8e9 + number,
            "voice": request.get("voice"), "ttfa_ms": 84.2, "latency_ms": 412.5, "rtf": 0.31,
            "audio_duration_s": len(str(request["text"]).split()) * SECONDS_PER_WORD,
            "cache": "miss", "cache_hits": {"voice_codes": True, "semantic": False},
        }  # fmt: skip

    async def emotions(self, _: Request) -> Response:
        return JSONResponse(MARKERS)

    async def clear_cache(self, request: Request) -> Response:
        self.caches_cleared.append((await request.json())["cache"])
        return JSONResponse({"cleared": {"voice_codes": 0, "semantic": 2}})


class Guard:
    """Ask for the backend's key, if it has one."""

    def __init__(self, app: ASGIApp, backend: FakeBackend) -> None:
        self._app = app
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._backend.api_key
        offered = Headers(scope=scope).get("authorization")
        if key and scope["path"] != "/health" and offered != f"Bearer {key}":
            answer = refusal(401, "this server asks for an API key", "authorization")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


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
