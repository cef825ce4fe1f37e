"""The benchmark: its command line, its figures on a fake engine, its plot."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from backend.core.contract import FramesInWork
from backend.core.settings import Settings, read_settings
from scripts import benchmark
from scripts.bench import reference
from scripts.bench.engine_settings import SETTINGS_FILE, engine_settings, plain_settings
from scripts.bench.figures import Bench, all_figures
from scripts.bench.plot import Axis, write_plot
from scripts.bench.reference import ratios
from tests.fakes import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import FrameChunk

FIGURES = {
    "decode_step_ms": {"1": 2.0, "2": 3.0},
    "encode_10s_ms": 5.0,
    "decode_10s_ms": 4.0,
    "prefill_ms": 3.0,
}


def test_without_pydantic_the_defaults_are_the_same() -> None:
    plain = plain_settings(SETTINGS_FILE.read_text(encoding="utf-8"), {})
    for name, field in Settings.model_fields.items():
        assert getattr(plain, name) == field.get_default(), name


def test_without_pydantic_an_unknown_setting_is_refused_too() -> None:
    source = SETTINGS_FILE.read_text(encoding="utf-8")
    assert plain_settings(source, {"max_slots": 9}).max_slots == 9
    with pytest.raises(ValueError, match="no such setting: MAX_SLOT"):
        plain_settings(source, {"max_slot": 9})


def test_measured_settings_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SLOTS", "7")
    assert read_settings(None).max_slots == 7
    assert engine_settings(chunk_size=8).max_slots == Settings.model_fields["max_slots"].default


@pytest.mark.parametrize(
    ("most", "batches"),
    [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (128, [1, 2, 4, 8, 16, 32, 64, 128])],
)
def test_batches_double_up_to_the_largest(most: int, batches: list[int]) -> None:
    assert benchmark.batches_up_to(most) == batches


def test_every_figure_is_measured_and_every_slot_given_back() -> None:
    engine = FakeEngine(max_slots=4)
    figures = all_figures(Bench(engine, steps=4, prompt_positions=40), [1, 2, 4])
    assert figures["decode_step_ms"].keys() == {"1", "2", "4"}
    assert figures["streams_x_realtime"].keys() == {"1", "4"}
    flat = [figures[name] for name in ("prefill_ms", "encode_10s_ms", "decode_10s_ms")]
    assert all(value > 0 for value in [*flat, *figures["decode_step_ms"].values()])
    assert engine.used_slots == set()
    steps = [verb for verb in engine.verbs if verb == "decode_step"]
    assert len(steps) >= 3 * 4


class BesideEngine(FakeEngine):
    """Its codec works beside steps of several rows."""

    def decodes_beside(self, num_rows: int) -> bool:
        return num_rows > 1

    def begin_frames(self, chunks: Sequence[FrameChunk]) -> FramesInWork:
        self.verbs.append("begin")
        samples = self.decode_frames(chunks)

        def collect() -> list[NDArray[np.float32]]:
            self.verbs.append("collect")
            return samples

        return Mock(spec=FramesInWork, collect=collect)


def test_streams_are_measured_as_they_are_served_with_the_codec_beside_the_steps() -> None:
    engine = BesideEngine(max_slots=4)
    bench = Bench(engine, steps=8, prompt_positions=40)
    assert bench.streams_x_realtime(4) > 0
    begun = engine.verbs.index("begin")
    verbs = [verb for verb in engine.verbs[begun:] if verb in ("begin", "decode_step", "collect")]
    assert verbs[:10] == ["begin", *["decode_step"] * 8, "collect"]
    assert engine.used_slots == set()
    assert bench.streams_x_realtime(1) > 0
    assert engine.verbs.count("begin") == verbs.count("begin")


def test_prompts_have_the_wanted_length_and_are_never_the_same() -> None:
    engine = FakeEngine(max_slots=8)
    bench = Bench(engine, steps=1, prompt_positions=60)
    bench.decode_step_ms(8)
    texts = {text for text, _, _ in engine.prefills}
    assert len(texts) == len(engine.prefills) >= 8
    assert {engine.prompt_length(text, []) for text in texts} == {60}


def test_the_plot_is_an_svg_with_a_point_for_every_figure(tmp_path: Path) -> None:
    curves = {"bf16 none": {1: 1.0, 2: 1.5, 8: 4.0}, "bf16 int8 <fast>": {1: 0.5, 2: 0.8}}
    write_plot(tmp_path / "plot.svg", curves, 21.5, "A & B")
    root = ET.parse(tmp_path / "plot.svg").getroot()
    assert len(root.findall(".//{*}circle")) == 2 * 5
    texts = [node.text for node in root.findall(".//{*}text")]
    assert "A & B" in texts
    assert "bf16 int8 <fast>" in texts


def test_a_logarithmic_axis_spreads_factors_evenly() -> None:
    axis = Axis(1.0, 100.0, 200.0)
    assert [axis.at(value) for value in (1.0, 10.0, 100.0)] == pytest.approx([0.0, 100.0, 200.0])
    assert axis.ticks() == [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    assert Axis(4.0, 4.0, 10.0).at(4.0) == 0.0


def test_ratios_say_how_many_times_as_long_the_reference_takes() -> None:
    theirs = {"frame_ms": 8.0, "prefill_ms": 9.0, "encode_10s_ms": 10.0}
    expected = {"decode_step": 4.0, "encode_10s": 2.0, "prefill": 3.0}
    assert ratios(theirs, FIGURES) == expected


def test_the_reference_finds_packages_outside_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "outside.py").write_text("FRAME_MS = 8.0")
    oracle = tmp_path / "oracle.py"
    oracle.write_text(
        "import json, outside, pathlib, sys, scripts.benchmark\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps({'frame_ms': outside.FRAME_MS}))"
    )
    monkeypatch.setattr(reference, "ORACLE", oracle)
    python = Path(sys.executable)
    assert reference.measure_reference(python, {}, tmp_path) == {"frame_ms": 8.0}
    (tmp_path / "outside.py").unlink()
    with pytest.raises(RuntimeError, match="No module named 'outside'"):
        reference.measure_reference(python, {}, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [["--plot", "x.jpg"], ["--precision", "fp8"], ["--quantization", ""], ["--max-batch", "0"]],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(arguments)
    assert "error:" in capsys.readouterr().err


def test_the_last_line_is_json_and_a_run_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real engines, made-up figures; the second run has no room for even one slot."""
    rooms = iter([1 << 40, 1 << 20])
    monkeypatch.setattr(benchmark, "all_figures", lambda bench, batches: FIGURES)
    monkeypatch.setattr("backend.engine.memory.free_budget", lambda device: next(rooms))
    monkeypatch.setattr(benchmark, "free_budget", lambda device: 1 << 40)
    plot, out = tmp_path / "plot.svg", tmp_path / "out.json"
    arguments = ["--device", "cpu", "--threads", "1", "--quantization", "int8,none"]
    arguments += ["--max-batch", "2", "--plot", str(plot), "--out", str(out)]
    assert benchmark.main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads(out.read_text(encoding="utf-8"))
    good, bad = report["runs"]
    assert (good["precision"], good["quantization"]) == ("fp32", "int8")
    assert good["decode_step_ms"] == FIGURES["decode_step_ms"]
    assert "does not fit" in bad["error"]
    assert plot.is_file()
    assert {"machine", "versions", "commit", "model"} <= report.keys()


def test_a_model_that_is_not_there_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert benchmark.main(["--model", "nowhere", "--device", "cpu"]) == 1
    assert capsys.readouterr().err.startswith("error: MODEL=nowhere")
