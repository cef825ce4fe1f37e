"""Layers under torch.compile say what plain ones say, and people are told what became of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.core.model_location import POCKET_DIR
from backend.core.settings import read_settings
from backend.core.types import SamplingParams
from backend.engine import compiling
from backend.engine.compiling import CACHE_VARIABLE, LayerPrograms, prepare_cache
from backend.models.codec.layers import plain_snake
from backend.opt_engine import OptimizedEngine

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hi.",
    "We walked until the sun went down.",
)


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "before"))  # so that it is put back
    yield
    torch.compiler.reset()


def load(data_dir: Path, **values: Any) -> OptimizedEngine:
    settings = read_settings(
        None, device="cpu", cpu_threads=1, max_seq_len=512, data_dir=data_dir, **values
    )
    return OptimizedEngine.load(settings, POCKET_DIR)


def spoken(engine: OptimizedEngine, most: int) -> list[NDArray[np.int32]]:
    """Codes ``[K, F]`` of all texts, spoken together."""
    slots = [engine.prefill(text, [], GREEDY) for text in TEXTS]
    frames: dict[int, list[NDArray[np.int32]]] = {slot: [] for slot in slots}
    live = list(slots)
    for _ in range(most):
        for result in engine.decode_step(live):
            if result.codes is None:
                live.remove(result.slot)
            else:
                frames[result.slot].append(result.codes)
        if not live:
            break
    for slot in slots:
        engine.release(slot)
    return [np.stack(frames[slot], axis=1) for slot in slots]


def sound(engine: OptimizedEngine, codes: list[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    slots = [engine.open_slot() for _ in codes]
    heard = engine.decode_frames(
        [FrameChunk(slot, each) for slot, each in zip(slots, codes, strict=True)]
    )
    for slot in slots:
        engine.release(slot)
    return heard


def recorder(made: list[tuple[str, str]]) -> Callable[..., Any]:
    """Stands in for ``torch.compile``: notes what it is given and gives it back."""

    def compile_(function: Any, *, dynamic: bool, mode: str) -> Any:
        assert dynamic
        made.append((function.__name__, mode))
        return function

    return compile_


@pytest.mark.timeout(600)  # a compiler at work
def test_a_function_is_compiled_once_and_kept_in_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # Else it first tries with ten small programs what the CPU understands.
    monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", False)
    place = prepare_cache(read_settings(None, data_dir=tmp_path / "data"))
    programs = LayerPrograms("default")
    snake = programs(plain_snake)
    assert programs(plain_snake) is snake
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 5, 17), (4, 3, 9)):
        x = torch.randn(shape, generator=generator)
        alpha = torch.rand(1, shape[1], 1, generator=generator) + 0.5
        torch.testing.assert_close(snake(x, alpha), plain_snake(x, alpha), rtol=1e-5, atol=1e-6)
    assert programs.failure is None
    folder = tmp_path / "data" / "compiled"
    assert str(folder) in place
    assert any(path.is_file() for path in folder.rglob("*"))


def test_layers_of_a_kind_share_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(torch, "compile", recorder(made))
    engine = load(tmp_path, enable_torch_compile=True, cpu_fast_linear=False)
    spoken(engine, 3)
    engine.close()
    assert sorted(made) == [
        (name, "default")
        for name in ("finish", "plain_finish", "plain_mix", "plain_snake", "project")
    ]
    notes = [note for note in engine.info.notes if note.startswith("torch.compile: ")]
    assert ["decode step" in note for note in notes] == [True, False]
    assert "codec's layers" in notes[1]


def test_a_step_with_packed_weights_stays_and_people_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(torch, "compile", recorder(made))
    engine = load(tmp_path, enable_torch_compile=True)
    engine.close()
    assert {name for name, _ in made} == {"plain_finish", "plain_mix", "plain_snake"}
    [note] = [note for note in engine.info.notes if "the decode step's layers" in note]
    assert "uncompiled, since the project's own kernels" in note


def test_without_a_compiler_everything_runs_plainly_and_people_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nmany further lines")

    plain = load(tmp_path, cpu_fast_linear=False)
    expected = spoken(plain, 6)
    samples = sound(plain, expected)
    plain.close()
    monkeypatch.setattr(torch, "compile", refuse)
    engine = load(tmp_path, enable_torch_compile=True, cpu_fast_linear=False)
    notes = [note for note in engine.info.notes if "ENABLE_TORCH_COMPILE" in note]
    assert [note.split(" run uncompiled")[0] for note in notes] == [
        "ENABLE_TORCH_COMPILE: the decode step's layers",
        "ENABLE_TORCH_COMPILE: the codec's layers",
    ]
    assert all(note.endswith("RuntimeError: no C++ compiler found") for note in notes)
    assert all(map(np.array_equal, spoken(engine, 6), expected))
    assert all(map(np.array_equal, sound(engine, expected), samples))
    engine.close()


def test_a_program_that_fails_later_gives_way_for_good(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def compile_(function: Any, **_: Any) -> Any:
        def program(value: int) -> int:
            calls.append(value)
            if value == 2:
                raise RuntimeError("a new shape")
            return function(value)

        return program

    monkeypatch.setattr(torch, "compile", compile_)
    programs = LayerPrograms("default")

    def doubled(value: int) -> int:
        return 2 * value

    run = programs(doubled)
    assert [run(value) for value in (1, 2, 3)] == [2, 4, 6]
    assert calls == [1, 2]
    assert programs.failure == "RuntimeError: a new shape"


def test_too_little_memory_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch):
    def compile_(_: Any, **__: Any) -> Any:
        def program(*_: Any) -> None:
            raise torch.OutOfMemoryError("full")

        return program

    monkeypatch.setattr(torch, "compile", compile_)
    programs = LayerPrograms("default")
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        programs(plain_snake)(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    assert programs.failure is None


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "data").write_text("a file")
    place = prepare_cache(read_settings(None, data_dir=tmp_path / "data"))
    assert place.startswith("not kept, since ")


def test_weights_in_nf4_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(torch, "compile", recorder(made))
    engine = load(tmp_path, enable_torch_compile=True, quantization="nf4")
    engine.close()
    assert "project" not in {name for name, _ in made}
    assert any("NF4 go through a library's kernel" in note for note in engine.info.notes)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a compiler at work
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_compiled_layers_say_what_plain_ones_say(
    tmp_path: Path, quantization: str, caplog: pytest.LogCaptureFixture
):
    values = {"mixed_precision": "fp32", "quantization": quantization}
    plain = load(tmp_path, cpu_fast_linear=False, **values)
    expected = spoken(plain, 200)
    samples = sound(plain, expected)
    plain.close()
    engine = load(tmp_path, cpu_fast_linear=False, enable_torch_compile=True, **values)
    assert sum(note.startswith("torch.compile: ") for note in engine.info.notes) == 2
    with torch.compiler.set_stance("fail_on_recompile"):  # all was made when the engine was built
        assert all(map(np.array_equal, spoken(engine, 200), expected))
        for heard, wanted in zip(sound(engine, expected), samples, strict=True):
            assert np.linalg.norm(heard - wanted) <= 1e-5 * np.linalg.norm(wanted)
    assert "torch.compile failed" not in caplog.text
    engine.close()
    assert compiling.CACHE_FOLDER in {path.name for path in tmp_path.iterdir()}
