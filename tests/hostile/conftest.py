from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.routing import Match
from starlette.testclient import TestClient

from backend.app import create_app
from backend.core.settings import Settings
from tests.conftest import until_open, write_voice
from tests.fakes import FakeEngineClient


@dataclass(frozen=True, slots=True)
class Target:
    """The app under attack, opened once for the whole table."""

    root: Path
    app: FastAPI
    client: TestClient
    engine: FakeEngineClient

    def has_route(self, method: str, path: str) -> bool:
        """Tell whether any router answers this."""
        scope = {"type": "http", "method": method, "path": path, "headers": [], "root_path": ""}
        return any(route.matches(scope)[0] is Match.FULL for route in self.app.routes)


def hostile_settings(directory: Path) -> Settings:
    """Settings for a fake model with two voices, all of it inside ``directory``."""
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    write_voice(model, "alto", description="high", language="en")
    write_voice(model, "basso")
    return Settings(model=str(model), max_upload_mb=2, data_dir=directory / "data")


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    engine = FakeEngineClient()
    root = tmp_path_factory.mktemp("hostile")
    app = create_app(hostile_settings(root), engine)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(until_open, app)
        yield Target(root, app, client, engine)
