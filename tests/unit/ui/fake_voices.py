"""The voice library of the stand-in backend: same addresses, same fields, nothing on a disk."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import soundfile
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

MIN_RECORDING_S = 1.0


def voice(name: str, description: str = "", **facts: Any) -> dict[str, Any]:
    return {
        "id": name.encode().hex().ljust(32, "0"), "name": name, "description": description,
        "language": "en", "text": "Words that were said.", "duration_s": 4.5, "tags": [],
        "consent": "", "references": [{"text": "Words that were said.", "duration_s": 4.5,
        "has_audio": True}], "created_at": None, "updated_at": None, "is_builtin": True,
        "is_default": False, "problem": "", **facts,
    }  # fmt: skip


VOICES = [
    voice("kit", "A clear, low voice", is_default=True),
    voice("sally", "Bright and friendly", duration_s=5.1),
]


def refusal(status: int, message: str, param: str, request_id: str = "req-v") -> Response:
    error = {"type": "refused", "message": message, "param": param, "request_id": request_id}
    return JSONResponse({"error": error}, status_code=status)


def examined(content: bytes) -> dict[str, Any]:
    sound, rate = soundfile.read(io.BytesIO(content))
    duration_s = len(sound) / rate
    findings: list[dict[str, str]] = []
    if duration_s < MIN_RECORDING_S:
        findings.append({"severity": "refuse", "code": "too_short", "message": "It is too short."})
    elif duration_s < 3:
        message = "It is short; 5 to 30 s are best."
        findings.append({"severity": "hint", "code": "short", "message": message})
    return {
        "is_usable": duration_s >= MIN_RECORDING_S, "duration_s": duration_s,
        "source_sample_rate": rate, "peak_dbfs": -3.0, "level_dbfs": -18.0,
        "clipping_ratio": 0.0, "snr_db": 32.0, "silence_ratio": 0.1, "bandwidth_hz": 8000.0,
        "findings": findings, "best_window": None,
    }  # fmt: skip


class FakeVoices:
    """The library; ``voices`` is what it holds."""

    def __init__(self) -> None:
        self.voices: list[dict[str, Any]] = [dict(one) for one in VOICES]
        self.preview_sound = b""

    def routes(self) -> list[Route]:
        return [
            Route("/voices", self.list_all),
            Route("/voices", self.add, methods=["POST"]),
            Route("/voices/check", self.check, methods=["POST"]),
            Route("/voices/import", self.restore, methods=["POST"]),
            Route("/voices/{name}", self.get),
            Route("/voices/{name}", self.change, methods=["PATCH"]),
            Route("/voices/{name}", self.delete, methods=["DELETE"]),
            Route("/voices/{name}/references", self.add_reference, methods=["POST"]),
            Route("/voices/{name}/preview", self.preview),
            Route("/voices/{name}/export", self.export),
        ]

    async def list_all(self, _: Request) -> Response:
        return JSONResponse({"voices": self.voices})

    async def add(self, request: Request) -> Response:
        fields, content = await _form(request, "audio")
        if any(one["name"] == fields["name"] for one in self.voices):
            return refusal(409, f"there is a voice {fields['name']!r} already", "name")
        report = examined(content)
        if not report["is_usable"]:
            return refusal(422, "the recording cannot be used: it is too short", "audio")
        transcript = fields.pop("transcript", "")
        known = {"name", "language", "tags", "consent", "description", "keep_audio"}
        if not known.issuperset(fields):
            return refusal(422, f"unknown fields in {sorted(fields)}", "name")
        reference = {"text": transcript, "duration_s": report["duration_s"], "has_audio": True}
        tags = [tag for tag in fields.pop("tags", "").split(",") if tag]
        added = voice(
            **fields, tags=tags, is_builtin=False, text=transcript, references=[reference],
            duration_s=report["duration_s"],
        )  # fmt: skip
        self.voices.append(added)
        return JSONResponse({"voice": added, "clinic": [report]}, status_code=201)

    async def add_reference(self, request: Request) -> Response:
        found = self._find(request)
        fields, content = await _form(request, "audio")
        report = examined(content)
        found["references"].append(
            {"text": fields["transcript"], "duration_s": report["duration_s"], "has_audio": True}
        )
        return JSONResponse({"voice": found, "clinic": [report]}, status_code=201)

    async def check(self, request: Request) -> Response:
        _, content = await _form(request, "audio")
        return JSONResponse(examined(content))

    async def get(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not any(one["name"] == name for one in self.voices):
            return refusal(404, f"there is no voice {name!r}", "name")
        return JSONResponse(self._find(request))

    async def change(self, request: Request) -> Response:
        found = self._find(request)
        if found["is_builtin"]:
            return refusal(403, "this voice came with the model and cannot be changed", "name")
        found.update(await request.json())
        return JSONResponse(found)

    async def delete(self, request: Request) -> Response:
        found = self._find(request)
        self.voices.remove(found)
        return JSONResponse({"id": found["id"], "name": found["name"]})

    async def preview(self, request: Request) -> Response:
        self._find(request)
        return Response(self.preview_sound, media_type="audio/wav")

    async def export(self, request: Request) -> Response:
        return Response(json.dumps(self._find(request)), media_type="application/octet-stream")

    async def restore(self, request: Request) -> Response:
        fields, content = await _form(request, "file")
        added = {**json.loads(content), **fields, "is_builtin": False, "is_default": False}
        if any(one["name"] == added["name"] for one in self.voices):
            return refusal(409, f"there is a voice {added['name']!r} already", "name")
        self.voices.append(added)
        return JSONResponse(added, status_code=201)

    def _find(self, request: Request) -> dict[str, Any]:
        name = request.path_params["name"]
        return next(one for one in self.voices if one["name"] == name)


async def _form(request: Request, file_field: str) -> tuple[dict[str, str], bytes]:
    fields: dict[str, str] = {}
    content = b""
    async with request.form() as form:
        for name, value in form.items():
            if isinstance(value, UploadFile):
                assert name == file_field
                content = await value.read()
            else:
                fields[name] = value
    return fields, content
