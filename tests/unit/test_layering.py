"""The rooms of the house and who may know whom, as ``backend/docs/design.md`` says."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
OWNERLESS_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}

ALL_ROOMS = frozenset(
    {"core", "audio", "telemetry", "models", "engine", "opt_engine", "serving", "worker"}
    | {"service", "api", "app"}
)
MAY_IMPORT: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "audio": frozenset({"core"}),
    "telemetry": frozenset({"core"}),
    "models": frozenset({"core"}),
    "engine": frozenset({"core", "models"}),
    "opt_engine": frozenset({"core", "models", "engine"}),
    "serving": frozenset({"core", "telemetry"}),
    "worker": frozenset({"core", "telemetry", "serving", "opt_engine"}),
    # It meets the engine through the contract in core; app.py brings the two together.
    "service": frozenset({"core", "audio", "telemetry"}),
    "api": frozenset({"core", "audio", "telemetry", "service"}),
    "app": ALL_ROOMS,
    # Copies of the engine on Ray: both ends of the wire, and Ray's router between them.
    "replicas": frozenset({"core", "telemetry", "worker"}),
    "cluster": frozenset({"app", "core", "replicas", "telemetry"}),
}
WEB_ROOMS = frozenset({"api", "app", "cluster"})
ONLY_IN: dict[str, frozenset[str]] = {
    "torch": frozenset({"models", "engine", "opt_engine", "worker"}),
    "fastapi": WEB_ROOMS,
    "starlette": WEB_ROOMS,
    "pynvml": frozenset({"telemetry"}),
    "ray": frozenset({"cluster", "replicas"}),
    "fsspec": frozenset({"service"}),
    "huggingface_hub": frozenset(),
    "gradio": frozenset(),
    "streamlit": frozenset(),
}
"""Libraries that only some rooms of the backend may know."""
CORE_LIBRARIES = frozenset({"numpy", "pydantic", "pydantic_settings"})
ORACLE = "fish_speech"


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where it stands."""

    module: str
    line: int


def imports_of(source: str) -> Iterator[Import]:
    """Find every import, those for type checkers and those by name included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            # "from backend import core" names a room only together with what it imports.
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called, first = ast.unparse(node.func), node.args[0]
            by_name = called in {"__import__", "import_module", "importlib.import_module"}
            if by_name and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, node.lineno)


def violations(path: str, source: str) -> list[str]:
    """List what a file (by its path from the root) imports against the rules."""
    broken: list[str] = []
    for found in imports_of(source):
        reason = _reason_against(path, found.module.split("."))
        if reason is not None:
            broken.append(f"{path}:{found.line}: imports {found.module}: {reason}")
    return broken


def _reason_against(path: str, module: list[str]) -> str | None:
    top, package = module[0], path.split("/", 1)[0]
    if top == ORACLE and not _may_know_oracle(path):
        return "the official package is an oracle for tests only"
    if package == "ui" and top in {"backend", "scripts", "tests"}:
        return "the pages talk to the backend by HTTP alone"
    if package == "backend":
        return _reason_in_backend(path, module)
    return None


def _may_know_oracle(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return path.startswith("tests/parity/") or (
        path.startswith("scripts/") and name.startswith("make_") and name.endswith("goldens.py")
    )


def _reason_in_backend(path: str, module: list[str]) -> str | None:
    room, top = room_of(path), module[0]
    if top in {"ui", "scripts", "tests"}:
        return f"the backend never imports {top}"
    if room is None:
        return None if top == "__future__" else "backend/__init__.py imports nothing"
    if top == "backend":
        target = module[1] if len(module) > 1 else ""
        # The version is a fact about the whole package, not about a room.
        if target not in {room, "__version__"} | MAY_IMPORT[room]:
            return f"{room} may import {', '.join(sorted(MAY_IMPORT[room])) or 'nothing'}"
    if top in ONLY_IN and room not in ONLY_IN[top]:
        return f"{top} belongs to {', '.join(sorted(ONLY_IN[top])) or 'no room of the backend'}"
    if (
        room == "core"
        and top not in sys.stdlib_module_names
        and top not in CORE_LIBRARIES | {"backend"}
    ):
        return "core knows the standard library, numpy and pydantic"
    return None


def room_of(path: str) -> str | None:
    """Name the room of a backend file; None for the package file itself."""
    part = path.split("/")[1].removesuffix(".py")
    if part == "__init__":
        return None
    assert part in MAY_IMPORT, f"{path}: a new room needs a row here and in the design page"
    return part


def python_files() -> list[Path]:
    found = [p for top in ("backend", "ui", "scripts", "tests") for p in (ROOT / top).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def test_imports_point_down() -> None:
    broken: list[str] = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        broken += violations(name, path.read_text(encoding="utf-8"))
    assert not broken, "\n".join(broken)


def test_the_check_sees_the_whole_house() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in python_files()}
    assert {"backend/core/settings.py", "backend/opt_engine.py", "scripts/start.py"} <= names


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lengths.items() if n > MAX_LINES]
    assert not long, "split by purpose:\n" + "\n".join(long)


def test_no_file_has_a_name_that_nobody_owns() -> None:
    assert not [path for path in python_files() if path.name in OWNERLESS_NAMES]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("backend/core/types.py", "from backend.audio.wav import whole_wav"),
        ("backend/core/types.py", "import torch"),
        ("backend/core/types.py", "import yaml"),
        ("backend/audio/wav.py", "import backend.service.cache"),
        ("backend/audio/wav.py", "import torch.nn"),
        ("backend/telemetry/log.py", "from backend.serving import scheduler"),
        ("backend/models/layers.py", "from backend.engine.slots import Slot"),
        ("backend/models/layers.py", "from backend import engine"),
        ("backend/engine/slots.py", "from backend.opt_engine import OptimizedEngine"),
        ("backend/engine/slots.py", "from backend.telemetry import metrics"),
        ("backend/opt_engine.py", "from backend.serving.scheduler import Scheduler"),
        ("backend/serving/scheduler.py", "from backend.engine.slots import Slot"),
        ("backend/serving/scheduler.py", "import torch"),
        ("backend/worker/build.py", "from backend.engine.slots import Slot"),
        ("backend/worker/build.py", "from backend.service.text import split"),
        ("backend/service/text.py", "from backend.worker.build import build_engine_client"),
        ("backend/service/text.py", "from backend.api import schemas"),
        ("backend/service/text.py", "from fastapi import Request"),
        ("backend/service/text.py", "from starlette.requests import Request"),
        ("backend/service/text.py", "import torch"),
        ("backend/api/errors.py", "from backend.worker.build import build_engine_client"),
        ("backend/api/errors.py", "from backend.app import create_app"),
        ("backend/api/errors.py", "import torch"),
        ("backend/api/errors.py", "import pynvml"),
        ("backend/app.py", "import torch"),
        ("backend/app.py", "from backend.cluster import deployment"),
        ("backend/app.py", "import ray"),
        ("backend/app.py", "from backend.replicas.router import VoiceAffineRouter"),
        ("backend/cluster.py", "from backend.service.text import split"),
        ("backend/replicas/routing.py", "from backend.app import create_app"),
        ("backend/app.py", "import ui.settings"),
        ("backend/app.py", "from scripts import start"),
        ("backend/app.py", "from tests.fakes import FakeEngine"),
        ("backend/app.py", "import gradio"),
        ("backend/engine/slots.py", "import huggingface_hub"),
        ("backend/models/layers.py", "from fish_speech.models import x"),
        ("backend/__init__.py", "import json"),
        ("ui/client.py", "from backend.core.types import Turn"),
        ("ui/client.py", "from tests import fakes"),
        ("scripts/start.py", "import fish_speech"),
        ("tests/unit/test_x.py", "import fish_speech"),
        # ways to hide one
        (
            "backend/audio/wav.py",
            "if TYPE_CHECKING:\n    import torch",
        ),
        ("backend/audio/wav.py", "def f():\n    from backend.engine.slots import Slot"),
        ("backend/audio/wav.py", "import importlib\nimportlib.import_module('torch')"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("backend/core/types.py", "import numpy as np\nfrom pydantic import Field"),
        ("backend/core/contract.py", "from backend.core.types import Turn"),
        ("backend/opt_engine.py", "import torch\nfrom backend.engine.slots import Slot"),
        ("backend/worker/build.py", "from backend.opt_engine import OptimizedEngine"),
        ("backend/app.py", "import fastapi\nfrom backend.worker.build import build_engine_client"),
        ("backend/app.py", "from backend import __version__"),
        ("backend/cluster.py", "import ray\nfrom backend.app import create_app"),
        ("backend/replicas/router.py", "from ray.serve.request_router import RequestRouter"),
        ("backend/telemetry/gpu.py", "import pynvml"),
        ("ui/gradio_app.py", "import gradio\nimport httpx\nfrom ui.settings import x"),
        ("scripts/hub_download.py", "from backend.core.errors import CheckpointError"),
        ("scripts/make_goldens.py", "import fish_speech"),
        ("scripts/make_codec_goldens.py", "import fish_speech"),
        ("tests/parity/test_codec.py", "import fish_speech"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_a_room_without_rules_is_refused() -> None:
    with pytest.raises(AssertionError, match="needs a row"):
        violations("backend/cellar/wine.py", "import json")


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="relative import"):
        violations("backend/audio/wav.py", "from . import pcm")
