"""Fixtures of several rooms: settings, a fake model directory, the app in process and live."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.testclient import TestClient

from backend.app import create_app
from backend.core.garbage import keep_for_good
from backend.core.settings import Settings
from tests.fakes import FAKE_INFO, FakeEngineClient, fake_codes

# Before torch is loaded: its threads wait for each other by spinning, which on busy cores makes the
# tests 20 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeSettings = Callable[..., Settings]
AppClient = Callable[..., AbstractContextManager[TestClient]]


def pytest_collection_finish() -> None:
    """Spare the tests' many collections of garbage what was imported for all of them."""
    keep_for_good()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Let the many HTTP clients share what takes each of them 40 ms to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


def write_voice(directory: Path, stem: str, /, **changes: Any) -> Path:
    """Write a voice file for the fake engine; ``changes`` replace or add keys."""
    codes = fake_codes(stem, (), FAKE_INFO.sampling)
    voice = {"name": stem, "text": f"I am {stem}.", "codes": codes.tolist(), **changes}
    path = directory / "voices" / f"{stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(voice), encoding="utf-8")
    return path


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A model directory with the voices ``alto`` and ``basso``."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    write_voice(directory, "alto", description="high", language="en")
    write_voice(directory, "basso")
    return directory


@pytest.fixture
def make_settings(model_dir: Path) -> MakeSettings:
    """Settings for the fake model; keyword arguments change single ones."""

    def make(**changes: Any) -> Settings:
        defaults = {
            "model": str(model_dir),
            "max_upload_mb": 2,
            "data_dir": model_dir.parent / "data",
        }
        return Settings(**{**defaults, **changes})

    return make


@pytest.fixture
def engine() -> FakeEngineClient:
    """The engine behind ``client`` and ``live_server``."""
    return FakeEngineClient()


async def until_open(app: FastAPI) -> None:
    """Wait until the app can speak or has failed to start."""
    await asyncio.wait([app.state.opening])


@pytest.fixture
def app_client(make_settings: MakeSettings, engine: FakeEngineClient) -> AppClient:
    """Open the app in process, ready to speak unless the engine's loading is held back."""

    @contextmanager
    def open_client(**changes: Any) -> Iterator[TestClient]:
        app = create_app(make_settings(**changes), engine)
        with TestClient(app) as client:
            if engine.may_load.is_set():
                assert client.portal is not None
                client.portal.call(until_open, app)
            yield client

    return open_client


@pytest.fixture
def client(app_client: AppClient) -> Iterator[TestClient]:
    """The app in process with default settings."""
    with app_client() as opened:
        yield opened


class _Server(uvicorn.Server):
    """uvicorn inside the test's own event loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening, self.is_over = asyncio.Event(), asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    async def main_loop(self) -> None:
        """Return when it is told to end; uvicorn's own looks every 0.1 s."""
        await self.on_tick(0)
        await self.is_over.wait()

    def end(self) -> None:
        self.should_exit = True
        self.is_over.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test runner's signal handlers alone."""
        yield


@asynccontextmanager
async def serve(app: FastAPI, **config: Any) -> AsyncIterator[str]:
    """Serve ``app`` on a free loopback port and give its address; ``config`` is uvicorn's."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = _Server(
        uvicorn.Config(
            app,
            **{"log_config": None, "access_log": False, "timeout_graceful_shutdown": 1, **config},
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    await server.is_listening.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        await serving
        listener.close()


@pytest.fixture
async def live(
    make_settings: MakeSettings, engine: FakeEngineClient
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app on a real port, in the test's own event loop."""
    app = create_app(make_settings(), engine)
    async with (
        serve(app) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as http,
    ):
        await until_open(app)
        yield http


def tone(
    duration_s: float, frequency_hz: float = 220.0, rate_hz: int = 16_000
) -> NDArray[np.float32]:
    """Give ``[S]`` float32 samples of a sine at half of full scale."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def file_of(samples: NDArray[np.float32], kind: str = "WAV", rate_hz: int = 16_000) -> bytes:
    """Write samples as a file of one of libsndfile's kinds."""
    target = io.BytesIO()
    soundfile.write(target, samples, rate_hz, format=kind)
    return target.getvalue()
