from __future__ import annotations

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


@pytest.fixture
def client(backend_url: str) -> Iterator[BackendClient]:
    with BackendClient(backend_url, timeout_s=10) as client:
        yield client
