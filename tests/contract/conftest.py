from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import schemathesis
from schemathesis.python import asgi

from backend.app import create_app
from tests.fakes import FakeEngineClient
from tests.hostile.conftest import hostile_settings

MAX_TRIES = 1000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The API by its OpenAPI document; the app behind it is open."""
    app = create_app(hostile_settings(tmp_path_factory.mktemp("contract")), FakeEngineClient())
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    with asgi.get_client(cast("asgi.ASGIApp", app)) as client:
        answers = (client.get("/health/ready") for _ in range(MAX_TRIES))
        assert any(answer.status_code == 200 for answer in answers)
    yield schema
    asgi.shutdown_lifespans()
