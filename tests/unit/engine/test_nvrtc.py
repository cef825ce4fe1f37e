"""Compiled kernels are kept for the next start; without a place for them it still works."""

from pathlib import Path

import pytest
import torch

from backend.engine import nvrtc

CARD = torch.device("cuda", 0)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sources: list[str] = []

    def compile_source(source: str, options: list[str]) -> bytes:
        sources.append(" ".join([source, *options]))
        return b"code"

    monkeypatch.setattr(nvrtc, "_compile", compile_source)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    return sources


def test_a_kernel_is_compiled_once_for_its_source_and_sizes(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(nvrtc, "_cache_folder", lambda: tmp_path / "new" / "kernels")
    for _ in range(2):
        assert nvrtc.compiled("text", {"NT": 1}, CARD) == b"code"
    assert nvrtc.compiled("text", {"NT": 2}, CARD) == b"code"
    assert compilations == [
        f"text --gpu-architecture=sm_90 --std=c++17 -DNT={tiles}" for tiles in (1, 2)
    ]


def test_without_a_folder_a_kernel_is_compiled_at_every_start(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(nvrtc, "_cache_folder", lambda: tmp_path / "file" / "kernels")
    for count in (1, 2):
        assert nvrtc.compiled("text", {}, CARD) == b"code"
        assert len(compilations) == count


@pytest.mark.usefixtures("compilations")
def test_a_kernel_that_cannot_be_kept_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(f"{path} cannot become {target}")

    monkeypatch.setattr(nvrtc, "_cache_folder", lambda: tmp_path)
    monkeypatch.setattr(Path, "replace", refuse)
    assert nvrtc.compiled("text", {}, CARD) == b"code"
    assert list(tmp_path.iterdir()) == []
