"""Dockerfile, compose.yaml and .dockerignore, as far as they can be judged without building."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.core.cluster_settings import cluster_keys
from backend.core.settings import FOREIGN_KEYS, Settings

ROOT = Path(__file__).resolve().parents[2]
KEYS = {name.upper() for name in Settings.model_fields} | FOREIGN_KEYS | cluster_keys()


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: every instruction with its words, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(idx for idx, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_does_not_run_as_root() -> None:
    users = [words for name, words in last_stage() if name == "USER"]
    assert len(users) == 1
    assert int(users[0].split(":")[0]) >= 10000
    after = [name for name, _ in last_stage()][[n for n, _ in last_stage()].index("USER") :]
    assert "RUN" not in after
    assert "COPY" not in after


def test_the_image_says_whether_it_can_speak() -> None:
    checks = [words for name, words in last_stage() if name == "HEALTHCHECK"]
    assert len(checks) == 1
    assert "scripts.check_ready" in checks[0]
    assert (ROOT / "scripts" / "check_ready.py").is_file()


def test_cpu_and_cuda_are_chosen_by_an_argument() -> None:
    assert ("ARG", "VARIANT=cpu") in instructions()
    chosen = next(words for name, words in instructions() if name == "RUN" and "whl/cpu" in words)
    assert "cuda)" in chosen
    assert "exit 1" in chosen


def test_torch_is_the_version_of_the_environment() -> None:
    from scripts.environment import CPU_INDEX, CUDA_INDEX, TORCH

    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert all(part in text for part in (TORCH, CPU_INDEX, CUDA_INDEX))


def test_settings_of_image_and_compose_exist() -> None:
    given = {
        word.split("=")[0]
        for name, words in last_stage()
        if name == "ENV"
        for word in words.split()
        if not word.startswith(("PATH=", "PYTHON"))
    }
    for service in compose()["services"].values():
        given |= set(service.get("environment", {}))
    assert given
    assert given <= KEYS


def test_the_serve_config_names_what_exists() -> None:
    config = yaml.safe_load((ROOT / "backend" / "docs" / "serve.yaml").read_text("utf-8"))
    (application,) = config["applications"]
    module, function = application["import_path"].split(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert f"def {function}(" in source
    assert set(application["args"]) <= KEYS
    assert all(isinstance(value, str) for value in application["args"].values())


def test_compose_opens_ports_to_this_machine_alone() -> None:
    ports = [port for service in compose()["services"].values() for port in service["ports"]]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_profile_has_one_backend_and_the_page() -> None:
    services = compose()["services"]
    for profile in ("cpu", "cuda", "cluster"):
        members = {name for name, service in services.items() if profile in service["profiles"]}
        assert members == {f"backend-{profile}", "ui"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        if name.startswith("backend"):
            assert "backend" in service["networks"]["default"]["aliases"]


def is_sent(path: str) -> bool:
    """Tell what .dockerignore says of a file; the last pattern that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parents = [path, *(str(p) for p in Path(path).parents if str(p) != ".")]
        pattern = pattern.removeprefix("**/")
        if any(fnmatch.fnmatch(p, pattern) or Path(p).match(pattern) for p in parents):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize("path", [".env", ".git/config", "data/voices/x", "checkpoints/a.pth"])
def test_secrets_and_data_stay_out_of_the_image(path: str) -> None:
    assert not is_sent(path)


def test_what_is_copied_is_enough_to_start(tmp_path: Path) -> None:
    sources = [
        word
        for name, words in instructions()
        if name == "COPY" and not words.startswith("--from")
        for word in words.split()[:-1]
    ]
    assert all(is_sent(source) for source in sources)
    for source in {"backend", "ui", "scripts"} & set(sources):
        for file in (ROOT / source).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            if is_sent(name):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / name)
    code = "import backend.app, scripts.check_ready, ui.settings; print(backend.app.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
