"""The doctor: what it tries, what it proposes, and how it compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backend.models.checkpoint import load_dual_ar
from backend.models.tokenizer import Tokenizer
from backend.opt_engine import OptimizedEngine
from scripts import doctor
from scripts.bench.engine_settings import engine_settings
from scripts.bench.figures import Bench
from scripts.bench.scores import difference, greedy_codes, semantic_scores
from scripts.doctor import Surgery, Trial, best_trial, propose, ways

POCKET = Path(__file__).resolve().parents[3] / "backend" / "pocket"
CPU = torch.device("cpu")


def trial(gain: float, agreement: float = 1.0, **settings: object) -> Trial:
    return Trial(settings, frame_ms=10.0 / gain, gain=gain, agreement=agreement)


def test_the_fastest_way_that_stays_close_is_chosen() -> None:
    plain, close = trial(1.0), trial(1.5, 0.97, quantization="int8")
    far = trial(3.0, 0.5, quantization="nf4")
    broken = Trial({"mixed_precision": "fp16"}, failure="no such kernel")
    assert best_trial([plain, far, close, broken]) == close
    assert best_trial([plain, trial(1.05, 1.0, mixed_precision="bf16"), broken]) == plain


def test_a_cpu_is_tried_with_threads_and_a_card_without(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = ways(CPU, 4)
    assert [way["cpu_threads"] for way in on_cpu if "cpu_threads" in way] == [1, 4]
    assert {way.get("quantization") for way in on_cpu} == {None, "int8", "nf4"}
    capability = [(7, 5)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    old = ways(torch.device("cuda:0"), 4)
    assert not [way for way in old if "cpu_threads" in way or way.get("mixed_precision") == "bf16"]
    capability[0] = (9, 0)
    new = ways(torch.device("cuda:0"), 4)
    assert {"mixed_precision": "bf16", "quantization": "int8"} in new


def test_slots_are_proposed_as_memory_and_real_time_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    surgery = Surgery("pocket", "cpu", 1, trials=[Trial({}, frame_ms=15.0, gain=1.0)])
    monkeypatch.setattr(doctor, "free_budget", lambda device: 1 << 40)
    assert [(one.key, one.value) for one in propose(surgery, 25.0)] == [("MAX_SLOTS", "2")]
    monkeypatch.setattr(doctor, "free_budget", lambda device: 1 << 20)
    assert propose(surgery, 25.0)[0].key == "MAX_SEQ_LEN"
    fast = Surgery("pocket", "cpu", 1, trials=[Trial({}, frame_ms=1.0, gain=1.0)])
    monkeypatch.setattr(doctor, "free_budget", lambda device: 1 << 40)
    assert propose(fast, 25.0) == []


@pytest.mark.parametrize(
    ("scheme", "error", "agreement"), [("int8", 0.02, 0.95), ("nf4", 0.15, 0.8)]
)
def test_quantized_pocket_voices_say_nearly_the_same(
    scheme: str, error: float, agreement: float
) -> None:
    settings = engine_settings(device="cpu", cpu_threads=1, max_slots=1, max_seq_len=512)
    engine = OptimizedEngine.load(settings, POCKET)
    codes = greedy_codes(engine)
    engine.close()
    tokenizer = Tokenizer.from_directory(POCKET)
    plain, other = (
        semantic_scores(
            load_dual_ar(POCKET, CPU, torch.float32, quantization=name), tokenizer, codes
        )
        for name in ("none", scheme)
    )
    assert torch.equal(plain.argmax(-1), torch.tensor(codes[0], dtype=torch.int64))
    moved = difference(plain, other)
    assert 0.0 < moved.error <= error
    assert moved.agreement >= agreement


def test_the_difference_ignores_what_no_draw_sees() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [0.0, 5.0, 1.0]])
    same = difference(scores, scores + 3.0)
    assert same.error == pytest.approx(0.0, abs=1e-6)
    assert same.agreement == 1.0
    assert difference(scores, scores.flip(1)).agreement == 0.5


def test_a_way_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "decode_step_ms", lambda self, batch: 10.0)
    tried = [{"quantization": "int8"}, {"mixed_precision": "fp16"}]
    monkeypatch.setattr(doctor, "ways", lambda device, cores: tried)
    inner = LoadedModelOf(doctor.LoadedModel.load)
    monkeypatch.setattr(doctor.LoadedModel, "load", inner)
    assert doctor.main(["--device", "cpu", "--steps", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    plain, int8, fp16 = report["trials"]
    assert plain["gain"] == int8["gain"] == 1.0
    assert int8["weights_mib"] < plain["weights_mib"]
    assert fp16["failure"] == "no fp16 here"


class LoadedModelOf:
    """Loads as ever, but not in fp16."""

    def __init__(self, load: object) -> None:
        self.load = load

    def __call__(self, name: str, directory: Path, precision: object, setup: object) -> object:
        if getattr(precision, "name", "") == "fp16":
            raise RuntimeError("no fp16 here\nand more lines")
        return self.load(name, directory, precision, setup)  # pyright: ignore[reportCallIssue]
