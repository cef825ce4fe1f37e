"""The judge's own arithmetic, and the shipped folder's promises."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import opt_engine
from backend.core.settings import Settings
from backend.engine.precision import cpu_threads
from scripts.pocket import judge_speed
from scripts.pocket.curves import Curves, read_curves
from scripts.pocket.export import WEIGHT_FILES, file_hash
from scripts.pocket.judge import (
    RESULT_FILE,
    note_as_new,
    shipped_bytes,
    speed_by_threads,
    unseen_speakers,
    word_error_rate,
)
from scripts.pocket.plot import plot_curves
from scripts.pocket.recognizer import prepared, spoken_words, word_errors
from scripts.pocket.speakers import draw_speakers

ROOT = Path(__file__).parents[3]
POCKET = ROOT / "backend" / "pocket"


@pytest.mark.parametrize(
    ("wanted", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "", 3), ("a b", "a b c d", 2)],
)
def test_word_errors_are_counted(wanted, heard, errors):
    assert word_errors(wanted.split(), heard.split()) == errors


def test_markers_and_signs_are_not_spoken():
    assert spoken_words("(whispering) It's O.K., okay - well-known!") == [
        "it's", "o", "k", "ok", "well", "known",
    ]  # fmt: skip


def test_the_error_rate_weighs_words_not_sentences():
    assert word_error_rate([(0, 9), (1, 1)]) == 10.0


def test_the_ear_gets_sixteen_bit_samples_of_the_same_peak():
    loud, faint = (np.abs(prepared(np.full(800, level, np.float32))).max() for level in (0.9, 0.01))
    assert abs(int(loud) - int(faint)) < 200
    assert len(prepared(np.zeros(0, np.float32))) == 8000


def test_judged_speakers_are_not_among_the_training_speakers():
    assert not set(unseen_speakers(40)) & set(draw_speakers(2400, seed=1))


class SilentEngine:
    """Takes as many threads as an engine would, and speaks nothing."""

    @classmethod
    def load(cls, settings: Settings, _folder: Path) -> "SilentEngine":
        torch.set_num_threads(cpu_threads(settings))
        return cls()

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_speed_is_measured_with_the_threads_that_were_asked_for(
    threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(opt_engine, "OptimizedEngine", SilentEngine)
    monkeypatch.setattr(judge_speed, "_speak_once", lambda _engine, _folder: 1.0)
    before = torch.get_num_threads()
    try:
        figures = speed_by_threads(POCKET, threads, {"threads_7": {"cores": 7}, "cores": 2})
    finally:
        torch.set_num_threads(before)
    assert figures["threads_7"] == {"cores": 7}
    assert figures[f"threads_{threads}"]["threads"] == threads
    assert len(figures) == 2


def test_a_part_that_is_judged_again_is_no_longer_called_older():
    result = {"parts_before_refinement": ["long_text", "speed"]}
    note_as_new(result, "words")
    assert result == {"parts_before_refinement": ["long_text", "speed"]}
    note_as_new(result, "speed")
    assert result == {"parts_before_refinement": ["long_text"]}
    note_as_new(result, "long_text")
    assert result == {}


def test_the_figures_belong_to_the_shipped_weights():
    figures = json.loads((ROOT / RESULT_FILE).read_text())
    assert figures["sha256"] == {name: file_hash(POCKET / name) for name in WEIGHT_FILES}


def test_curves_are_kept_and_drawn(tmp_path):
    path = tmp_path / "curves_lm.jsonl"
    for step in range(3):
        Curves(path).add("held_out", step, 10.0 * step, {"slow": 3.0 - step, "fast": 4.0})
    assert [row["slow"] for row in read_curves(path)] == [3.0, 2.0, 1.0]
    plot_curves([path], tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().count("<polyline") == 2


def test_the_shipped_folder_is_small_and_has_its_voices():
    assert shipped_bytes(POCKET) <= 40_000_000
    voices = [json.loads(p.read_text()) for p in (POCKET / "voices").glob("*.json")]
    assert len({voice["name"] for voice in voices}) >= 8
    config = json.loads((POCKET / "config.json").read_text())
    for voice in voices:
        assert len(voice["codes"]) == config["num_codebooks"]
        assert max(map(max, voice["codes"])) < config["codebook_size"]
