"""The voice library with a real codec: what is stored still sounds like the person afterwards."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.audio.analysis import describe
from backend.core.settings import read_settings

HIGH_VOICE = "sally"


@contextmanager
def server(data_dir: Path) -> Iterator[TestClient]:
    settings = read_settings(
        None, device="cpu", cpu_threads=1, engine_isolation="thread", data_dir=data_dir
    )
    app = create_app(settings)

    async def until_open() -> None:
        await asyncio.wait([app.state.opening])

    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(until_open)
        yield client


def pitch_hz(sound: bytes) -> float:
    samples, sample_rate = soundfile.read(io.BytesIO(sound), dtype="float32")
    f0_hz = describe(np.asarray(samples, np.float32), sample_rate).median_f0_hz
    assert f0_hz is not None
    return f0_hz


def test_a_stored_voice_keeps_its_pitch_over_a_restart_and_a_journey(tmp_path: Path):
    with server(tmp_path / "here") as client:
        original = client.get(f"/voices/{HIGH_VOICE}/preview").content
        report = client.post("/voices/check", files={"audio": original}).json()
        assert report["is_usable"] is True
        assert report["findings"] == []
        assert report["snr_db"] > 20
        transcript = client.get(f"/voices/{HIGH_VOICE}").json()["text"]
        fields = {"name": "Copy", "transcript": transcript, "keep_audio": "false"}
        assert client.post("/voices", data=fields, files={"audio": original}).status_code == 201
    with server(tmp_path / "here") as client:
        copy = client.get("/voices/copy/preview").content
        assert pitch_hz(copy) == pytest.approx(pitch_hz(original), rel=0.1)
        bundle = client.get("/voices/copy/export").content
    with server(tmp_path / "there") as client:
        assert client.post("/voices/import", files={"file": bundle}).status_code == 201
        spoken = client.post(
            "/tts", json={"text": "Hello there, my friend.", "voice": "copy", "seed": 1}
        )
        assert spoken.headers["X-Voice"] == "Copy"
        assert pitch_hz(spoken.content) == pytest.approx(pitch_hz(original), rel=0.25)
