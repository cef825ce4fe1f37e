"""Refining a shipped codec changes neither its codebooks nor what its old codes sound like."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scripts.pocket import refine
from scripts.pocket.codec import Codec
from scripts.pocket.codec_files import load_codec, save_codec
from scripts.pocket.codec_net import CodecSizes
from scripts.pocket.codec_refiner import FROZEN, CodecRefiner
from scripts.pocket.codec_trainer import CodecTraining
from scripts.pocket.ear import PhoneEar, ear_loss
from scripts.pocket.processes import start_part, stop_part
from scripts.pocket.render import LABEL_HOP
from scripts.pocket.train_codec import judge_weight

CODEC = CodecSizes(
    encoder_dim=4, latent_dim=16, decoder_dim=32, n_codebooks=3, codebook_size=32,
    semantic_codebook_size=32, n_layer=1, dim=32, n_head=2, head_dim=16, intermediate_size=32,
    window_size=4, block_size=64,
)  # fmt: skip
TRAINING = CodecTraining(1.0, batch=2, crop_frames=8, judged_items=2, judged_frames=4)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def refiner(training: CodecTraining = TRAINING) -> CodecRefiner:
    ear = PhoneEar(channels=16).eval().requires_grad_(False)
    return CodecRefiner(Codec(CODEC), training, torch.device("cpu"), ear)


def speech(frames: int, batch: int) -> torch.Tensor:
    return 0.2 * torch.randn(batch, 1, frames * CODEC.frame_length)


def test_encoder_and_decoder_learn_while_the_codebooks_stay():
    trainer = refiner()
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    x, labels = speech(8, 2), torch.zeros(2, trainer.crop_labels, dtype=torch.long)
    trainer.set_rates(1e-3, 1e-3, 1.0)
    for _ in range(2):
        assert trainer.step(x, labels).isfinite().all()
    after = trainer.net.state_dict()
    for name, value in before.items():
        if name.startswith(FROZEN):
            assert torch.equal(value, after[name]), name
    for name in ("encoder.block.0.conv.weight", "decoder.model.0.conv.weight"):
        assert not torch.equal(before[name], after[name])


def test_the_start_is_compared_with_itself_before_the_first_step():
    trainer = refiner()
    labels = torch.zeros(2, trainer.crop_labels, dtype=torch.long)
    figures = trainer.validate(speech(8, 2), labels)
    assert figures["same_semantic"] == figures["same_residual"] == 1.0
    assert figures["mel"] == figures["mel_start"] == figures["mel_old_codes"]
    assert figures["ear_start"] == figures["ear_new"]


def test_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match="even"):
        refiner(CodecTraining(1.0, batch=3))


def test_the_ear_hears_one_frame_per_label_and_no_level():
    ear = PhoneEar(channels=16).eval().requires_grad_(False)
    x = speech(4, 2)[:, 0]
    logits, features = ear(x)
    assert logits.shape[-1] == features[0].shape[-1] == x.shape[-1] // LABEL_HOP
    assert torch.allclose(logits, ear(3 * x)[0], atol=1e-2)
    labels = torch.zeros(2, logits.shape[-1], dtype=torch.long)
    assert float(ear_loss(ear, x, x, labels)[1]) == 0.0
    assert float(ear_loss(ear, x, speech(4, 2)[:, 0], labels)[1]) > 0.1


def test_the_discriminators_learn_alone_before_they_count():
    training = CodecTraining(1.0, judge_wait=10, judge_ramp=20)
    assert [judge_weight(training, n) for n in (0, 10, 20, 30, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]


def write_shards(folder, num: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(num):
        stem = folder / f"w00-{i:04d}"
        pcm = rng.standard_normal(400 * LABEL_HOP) * 3000
        pcm.astype(np.int16).tofile(stem.with_suffix(".pcm"))
        rng.integers(0, 41, 400).astype(np.uint8).tofile(stem.with_suffix(".ph"))
        stem.with_suffix(".json").write_text("[]")


def test_the_command_writes_a_codec_with_the_codebooks_of_its_start(tmp_path, monkeypatch):
    start, out = tmp_path / "start.safetensors", tmp_path / "out"
    save_codec(Codec(CODEC), start)
    write_shards(tmp_path / "work" / "speech", 3)
    monkeypatch.setattr(refine, "start_part", lambda *_: start_part("processes"))
    options = ["--start", start, "--work", tmp_path / "work", "--out", out, "--minutes", 0.02]
    options += ["--wait-hours", 0.001, "--capacity-hours", 0.1, "--ear-seconds", 0.01]
    options += ["--batch", 2, "--crop-frames", 20, "--judged", 2, "--held", 2]
    monkeypatch.setattr(sys, "argv", ["refine", *map(str, options)])
    refine.main()
    was, now = load_file(start), load_file(out / "codec.safetensors")
    assert was.keys() == now.keys()
    frozen = [name for name in was if name.startswith(FROZEN)]
    assert frozen
    assert all(torch.equal(was[name], now[name]) for name in frozen)
    assert json.loads((out / "refine.json").read_text())["before"]["same_semantic"] == 1.0
    codes = load_codec(out / "codec.safetensors").encode(speech(4, 1))
    assert codes.shape == (1, 4, 4)


def test_a_part_that_runs_is_ended():
    part = start_part("shards", "--out", "/nonexistent/folder", "--hours", "1", "--workers", "1")
    stop_part(part)
    assert part.returncode != 0
