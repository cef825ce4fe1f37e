"""The same speech from the server without Ray, in the test's own process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from backend.app import create_app
from backend.core.settings import Settings
from tests.conftest import until_open


@cache
def _spoken(request: tuple[tuple[str, Any], ...]) -> bytes:
    with plain_server() as client:
        answer = client.post("/tts", json=dict(request))
        assert answer.status_code == 200, answer.text
        return answer.content


def plain_speech(request: dict[str, Any]) -> bytes:
    """Give the answer to ``POST /tts``."""
    return _spoken(tuple(request.items()))


@contextmanager
def plain_server() -> Iterator[TestClient]:
    """Open the app on the pocket voice, with one thread as the replicas have."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model="pocket", engine_isolation="thread", cpu_threads=1, data_dir=Path(folder)
        )
        app = create_app(settings)
        with TestClient(app) as client:
            assert client.portal is not None
            client.portal.call(until_open, app)
            yield client
