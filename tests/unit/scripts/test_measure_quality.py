"""The measure of speech: takes come back whole, differences are counted sentence by sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import measure_quality
from scripts.quality.judge import Heard, as_table, compare, interval
from scripts.quality.takes import Takes


def heard(word_errors: int, duration_s: float = 2.0, pitch_hz: float = 100.0) -> Heard:
    return Heard(word_errors, 10, 2 * word_errors, 50, duration_s, -20.0, pitch_hz)


def test_takes_come_back_as_they_were(tmp_path: Path):
    codes = [np.arange(8 * n, dtype=np.int32).reshape(8, n) for n in (3, 1, 5)]
    takes = Takes({"engine": {"notes": ["a"]}}, ["One.", "Two.", "Three."], ["a", "b", "a"], codes)
    takes.write(tmp_path / "takes.npz")
    again = Takes.read(tmp_path / "takes.npz")
    assert (again.facts, again.texts, again.voices) == (takes.facts, takes.texts, takes.voices)
    assert all(np.array_equal(a, b) for a, b in zip(again.codes, codes, strict=True))


def test_figures_are_those_of_the_sentences():
    base = [heard(1), heard(0), heard(2)]
    ours = [heard(1), heard(2, 2.6, 200.0), heard(3, pitch_hz=0.0)]
    figures = compare(ours, base)
    assert figures["wer_percent"] == 20.0
    assert figures["wer_apart"] == 10.0
    assert figures["cer_percent"] == 8.0
    assert figures["duration_ratio"] == 1.1
    assert figures["level_db_apart"] == 0.0
    assert figures["pitch_semitones_apart"] == 6.0  # 0 and 12; where nothing is voiced is left out
    low, high = figures["wer_apart_95"]
    assert 0.0 <= low < 10.0 < high <= 20.0


def test_equal_takes_are_not_apart():
    errors = np.array([1.0, 0.0, 3.0])
    assert interval(errors, errors, np.array([9.0, 9.0, 9.0])) == (0.0, 0.0)


def test_the_table_has_a_row_for_each_setting():
    base = [heard(1), heard(0)]
    table = as_table({"float32": {"same_codes": 2, **compare(base, base)}}).splitlines()
    assert len(table) == 3
    assert {line.count("|") for line in table} == {9}
    assert "2 of 2" in table[2]


@pytest.mark.timeout(300)  # the pocket voice speaks on one core
def test_the_pocket_voice_is_judged_by_its_codes_or_by_its_own_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base, other = tmp_path / "base.npz", tmp_path / "other.npz"
    speaking = ["--threads", "1", "speak"]
    options = ["--device", "cpu", "--count", "2", "--max-slots", "2"]
    assert measure_quality.main([*speaking, str(base), *options]) == 0
    sound = ["--sound", str(tmp_path / "other.flac")]
    assert measure_quality.main([*speaking, str(other), *options, *sound]) == 0
    capsys.readouterr()
    judging = ["--threads", "1", "judge", str(base), str(other), "--workers", "1"]
    assert measure_quality.main(judging) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [figures[name]["same_codes"] for name in ("base", "other")] == [2, 2]
    assert figures["base"]["wer_percent"] < 50.0
    assert figures["other"]["wer_apart"] == 0.0  # the same sound, but for 16 bits
    assert figures["base"]["facts"]["engine"]["device"] == "cpu"


def test_takes_of_other_sentences_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    codes = [np.zeros((8, 2), dtype=np.int32)]
    for name, text in (("a", "One."), ("b", "Two.")):
        Takes({}, [text], ["kit"], codes).write(tmp_path / f"{name}.npz")
    files = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert measure_quality.main(["--threads", "1", "judge", *files, "--workers", "1"]) == 1
    assert "other sentences or voices" in capsys.readouterr().err
