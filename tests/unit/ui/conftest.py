from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.unit.ui.fake_backend import FakeBackend
from tests.unit.ui.server import RunningServer
from ui.client import BackendClient


@pytest.fixture
def foreign_leftovers() -> Iterator[None]:
    """Collect what Gradio and Streamlit leave open within the test that made them leave it.

    Such a test ignores PytestUnraisableExceptionWarning; without this a later one would fail.
    """
    yield
    gc.collect()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def backend_url(backend: FakeBackend) -> Iterator[str]:
    with RunningServer(backend.app()) as server:
        backend.gate.set()
        yield server.url


@pytest.fixture(autouse=True)
def _close_the_loops_gradio_leaves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradio makes an event loop at every launch and forgets it; here that would be a warning."""
    made: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def make_and_note() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make_and_note)
    yield
    left = [loop for loop in made if not loop.is_running() and not loop.is_closed()]
    for loop in left:
        loop.close()
    if left:
        asyncio.set_event_loop(None)


@pytest.fixture
def client(backend_url: str) -> Iterator[BackendClient]:
    with BackendClient(backend_url, timeout_s=10) as client:
        yield client
