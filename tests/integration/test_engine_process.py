"""The pocket voice in a process of its own, over HTTP: what clients see when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from backend.app import create_app
from backend.core.settings import Settings
from backend.worker.build import build_engine_client
from tests.conftest import serve, until_open

ROOT = Path(__file__).resolve().parents[2]
LONG = {"text": "A small bird was singing in the garden. " * 4, "voice": "sally", "seed": 1}
SHORT = {"text": "Back again.", "voice": "sally", "seed": 1}

WITHOUT_TORCH = """
import sys
from starlette.testclient import TestClient
from backend.app import create_app
from backend.core.settings import Settings

with TestClient(create_app(Settings(_env_file=None))) as client:
    print(client.get("/health").json()["status"])
    print("torch" in sys.modules)
"""


def samples_of(wav: bytes) -> NDArray[np.int32]:
    return np.frombuffer(wav[44 : len(wav) // 2 * 2], dtype="<i2").astype(np.int32)


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.mark.timeout(300)  # four loads of the model
async def test_a_killed_engine_comes_back_and_clients_are_told(tmp_path: Path):
    settings = Settings(_env_file=None, device="cpu", cpu_threads=1, data_dir=tmp_path)  # pyright: ignore[reportCallIssue]
    engine = build_engine_client(settings)
    app = create_app(settings, engine)
    async with (
        serve(app) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=120) as http,
    ):

        async def health() -> dict[str, Any]:
            await asyncio.sleep(0.01)  # asked again and again: the cores are for the engine
            return (await http.get("/health")).json()

        # while it loads
        while engine.pid is None:
            assert (await health())["status"] == "starting"
        kill(engine.pid)
        while (report := await health())["restarts"] == 0:
            pass
        assert report["status"] == "restarting"
        assert "the engine's process" in str(report["last_failure"])
        await until_open(app)
        assert (await health())["status"] == "ready"
        before = (await http.post("/tts", json=SHORT)).content

        # while it speaks, with another request at its end
        async with http.stream("POST", "/tts", json=LONG) as stream:
            pieces = stream.aiter_bytes()
            await anext(pieces)
            kill(engine.pid)
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [piece async for piece in pieces]
        while (report := await health())["restarts"] != 2:
            pass
        assert report["status"] == "restarting"
        assert (await http.get("/health/ready")).status_code == 503
        waiting = asyncio.create_task(http.post("/tts", json={**SHORT, "seed": 2}))
        other = (await waiting).content
        assert (await health())["status"] == "ready"

        # while it makes a file: nobody has heard of it, so it is made again
        making = asyncio.create_task(http.post("/tts", json={**LONG, "stream": False}))
        while (await health())["queue"]["running"] == 0:
            pass
        kill(engine.pid)
        file = await making
        assert file.status_code == 200
        assert samples_of(file.content).size > 0
        assert (await health())["restarts"] == 3

        # capacity is back, and the same seed still gives the same sound: the same codes, so samples
        # that differ by the rounding of other chunk sizes at most
        await http.post("/cache/clear")
        again = samples_of((await http.post("/tts", json=SHORT)).content)
        assert np.abs(again - samples_of(before)).max() <= 1
        assert other != before
        queue = (await health())["queue"]
        assert queue == {"running": 0, "waiting": 0, "max_running": 4, "max_waiting": 64}
        text = (await http.get("/metrics/prometheus")).text
        assert "tts_engine_restarts_total 3.0" in text
        assert "tts_streams_broken_total 1.0" in text
        assert 'tts_errors_total{error="EngineDiedError"} 1.0' in text


def test_the_process_of_the_service_never_loads_torch(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WITHOUT_TORCH}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert ended.stdout.split() == ["starting", "False"]
