"""One small run of ``scripts/load_test.py`` with a server of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMES, REQUESTS = 24, 6

pytestmark = [pytest.mark.load, pytest.mark.timeout(600)]


def test_listeners_hear_what_they_asked_for(tmp_path: Path):
    record, plot = tmp_path / "load.json", tmp_path / "load.svg"
    command = [
        sys.executable, "scripts/load_test.py", "--streams", "1,3", "--requests", str(REQUESTS),
        "--force-frames", str(FRAMES), "--new-share", "0.3", "--repeated-share", "0.3",
        "--recording-s", "2", "--ramp-s", "0", "--record", str(record), "--plot", str(plot),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report == json.loads(record.read_text())
    assert plot.read_text().startswith("<svg")
    assert [level["streams"] for level in report["levels"]] == [1, 3]
    frame_s = 0.04  # of the pocket voice
    for level in report["levels"]:
        assert level["errors"] == {}
        assert level["completed"] == REQUESTS
        assert level["audio_s"] == pytest.approx(REQUESTS * FRAMES * frame_s, rel=0.01)
        assert level["ttfa_s"]["count"] == REQUESTS
        assert level["server_metrics"]["requests"]["in_progress"] == 0
    counted = report["levels"][-1]["server_metrics"]["requests"]["by_status"]
    assert counted["ok"] == 2 * (REQUESTS + 1)  # and a warm-up each


def test_the_measurement_of_a_card_runs_on_a_cpu_as_well(tmp_path: Path):
    record = tmp_path / "card.json"
    command = [
        sys.executable, "scripts/load_card.py", "--model", "pocket", "--cases", "one,16",
        "--frames", str(FRAMES // 4), "--processes", "2", "--record", str(record),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report == json.loads(record.read_text())
    alone, crowd = report["levels"]
    assert (alone["case"], alone["processes"], alone["completed"]) == ("one", 1, 20)
    assert (crowd["case"], crowd["processes"], crowd["completed"]) == ("16", 2, 32)
    for level in (alone, crowd):
        assert level["errors"] == {}
        assert level["completed"] == level["requests"]
        assert level["stages_s"]["semantic"] > 0
