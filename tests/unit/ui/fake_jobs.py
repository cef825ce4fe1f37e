"""The jobs of the stand-in backend: a step further every time somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.unit.ui.fake_voices import refusal

if TYPE_CHECKING:
    from starlette.requests import Request

NUM_SEGMENTS = 2


class FakeJobs:
    """The jobs; ``jobs`` is what was started, newest first. Held ones make no progress."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.sound = b""
        self.are_held = False

    def routes(self) -> list[Route]:
        return [
            Route("/jobs", self.list_all),
            Route("/jobs", self.start, methods=["POST"]),
            Route("/jobs/{id}", self.get),
            Route("/jobs/{id}", self.delete, methods=["DELETE"]),
            Route("/jobs/{id}/events", self.events),
            Route("/jobs/{id}/audio", self.audio),
            Route("/jobs/{id}/{action}", self.steer, methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        job = {
            "id": f"{len(self.jobs) + 1:032x}", "status": "running", "text": asked["text"],
            "format": asked.get("format", "wav"), "num_segments": NUM_SEGMENTS,
            "done_segments": 0, "audio_duration_s": 0.0, "error": None, "progress": 0.0,
            "name": asked.get("name", ""), "voice": asked.get("voice"), "warnings": [],
        }  # fmt: skip
        self.jobs.insert(0, job)
        return JSONResponse(job, status_code=202)

    async def list_all(self, _: Request) -> Response:
        for job in self.jobs:
            self._advance(job)
        return JSONResponse({"jobs": self.jobs})

    async def get(self, request: Request) -> Response:
        return JSONResponse(self._find(request))

    async def delete(self, request: Request) -> Response:
        self.jobs.remove(self._find(request))
        return Response(status_code=204)

    async def steer(self, request: Request) -> Response:
        job = self._find(request)
        action = request.path_params["action"]
        job["status"] = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[action]
        return JSONResponse(job)

    async def audio(self, request: Request) -> Response:
        is_done = self._find(request)["status"] == "done"
        if not is_done and request.query_params["partial"] != "true":
            return refusal(409, "the job is not done", "partial")
        return Response(self.sound, media_type="audio/wav")

    async def events(self, request: Request) -> Response:
        job = self._find(request)
        said = b""
        while job["status"] == "running":
            self._advance(job)
            said += b"event: progress\ndata: " + bytes(JSONResponse(job).body) + b"\n\n"
        return Response(said, media_type="text/event-stream")

    def _advance(self, job: dict[str, Any]) -> None:
        if job["status"] == "running" and not self.are_held:
            job["done_segments"] += 1
            job["progress"] = job["done_segments"] / NUM_SEGMENTS
            job["audio_duration_s"] += 1.5
            if job["done_segments"] == NUM_SEGMENTS:
                job["status"] = "done"

    def _find(self, request: Request) -> dict[str, Any]:
        return next(one for one in self.jobs if one["id"] == request.path_params["id"])
