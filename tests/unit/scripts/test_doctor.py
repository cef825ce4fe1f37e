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
from scripts.bench import trials
from scripts.bench.engine_settings import engine_settings
from scripts.bench.figures import Bench
from scripts.bench.scores import difference, forced_codes, greedy_codes, semantic_scores
from scripts.bench.trials import Surgery, Trial, ways
from scripts.doctor import best_trial, propose

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
    kernels = {"cuda_graphs": True, "fused_kernels": True, "resident_kernels": True}
    assert {**kernels, "mixed_precision": "bf16", "quantization": "int8"} in new
    assert not [way for way in old if "fused_kernels" in way or "resident_kernels" in way]


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


def test_a_frame_is_drawn_behind_those_that_are_given() -> None:
    settings = engine_settings(device="cpu", cpu_threads=1, max_slots=1, max_seq_len=512)
    engine = OptimizedEngine.load(settings, POCKET)
    codes = greedy_codes(engine)
    assert (forced_codes(engine, codes) == codes).all()
    other = codes[:, ::-1].copy()
    drawn = forced_codes(engine, other)
    assert (drawn[:, 0] == codes[:, 0]).all()
    assert (drawn[0, 1:10] != codes[0, 1:10]).any()
    engine.close()


def test_only_what_differs_from_the_defaults_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_budget", lambda device: 1 << 40)
    plain, packed = trial(1.0), trial(4.0, cpu_fast_linear=True)
    assert propose(Surgery("pocket", "cpu", 1, trials=[plain, packed]), 25.0) == []
    useless = trial(1.0, cpu_fast_linear=True)
    int8 = trial(2.0, quantization="int8", mixed_precision="bf16")
    found = propose(Surgery("pocket", "cpu", 1, trials=[plain, useless, int8]), 25.0)
    assert {(one.key, one.value) for one in found} == {
        ("QUANTIZATION", "int8"), ("MIXED_PRECISION", "bf16"), ("CPU_FAST_LINEAR", "false"),
    }  # fmt: skip


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
    inner = LoadedModelOf(trials.LoadedModel.load)
    monkeypatch.setattr(trials.LoadedModel, "load", inner)
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
