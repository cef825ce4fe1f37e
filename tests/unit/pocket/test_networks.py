"""The trained networks are the product's networks: same names, same codes, same logits."""

import json

import numpy as np
import pytest
import torch

from backend.engine.kv_store import KVStore
from backend.models.checkpoint import load_dual_ar
from backend.models.codec.weights import load_codec as load_product_codec
from scripts.pocket.captured import CapturedStep
from scripts.pocket.codec import Codec
from scripts.pocket.codec_files import load_codec, save_codec
from scripts.pocket.codec_losses import SpectralLoss, pitch_classes
from scripts.pocket.codec_net import CodecSizes
from scripts.pocket.codec_trainer import CodecTrainer, CodecTraining
from scripts.pocket.lm_files import (
    load_official_lm,
    official_config,
    save_official_lm,
    write_tokenizer,
)
from scripts.pocket.lm_net import DualAR, LMSizes
from scripts.pocket.speak import Prompt, Sampling, generate, prompt_rows

CODEC = CodecSizes(
    encoder_dim=4, latent_dim=16, decoder_dim=32, n_codebooks=3, codebook_size=32,
    semantic_codebook_size=32, n_layer=1, dim=32, n_head=2, head_dim=16, intermediate_size=32,
    window_size=4, block_size=64,
)  # fmt: skip
LM = LMSizes(
    dim=32, n_layer=2, n_head=2, head_dim=16, intermediate_size=48, n_fast_layer=1, fast_dim=24,
    fast_n_head=2, fast_head_dim=12, fast_intermediate_size=32, codebook_size=32,
    num_codebooks=4, max_seq_len=512, dropout=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def random_codec() -> Codec:
    net = Codec(CODEC)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.1)
    return net.eval()


def speech(frames: int, batch: int = 1) -> torch.Tensor:
    return 0.2 * torch.randn(batch, 1, frames * CODEC.frame_length)


def write_lm(folder) -> DualAR:
    net = DualAR(LM).half().float().eval()
    save_official_lm(net, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(official_config(LM)))
    write_tokenizer(LM, folder)
    return net


def test_a_saved_codec_is_read_back_and_read_by_the_product(tmp_path):
    path = tmp_path / "codec.safetensors"
    save_codec(random_codec(), path)
    ours, theirs = load_codec(path), load_product_codec(tmp_path)
    x = speech(6)
    codes = ours.encode(x)
    assert torch.equal(codes, theirs.encode_reference(x[:, 0]))
    with torch.inference_mode():
        ours_samples, their_samples = ours.decode(codes)[:, 0], theirs.decode_frames(codes)
    assert torch.allclose(ours_samples, their_samples, atol=1e-5)


def test_the_codec_hears_nothing_of_the_future():
    net, x = random_codec(), speech(8)
    changed = x.clone()
    changed[..., 5 * CODEC.frame_length :] += 0.3
    assert torch.equal(net.encode(x)[..., :5], net.encode(changed)[..., :5])


def test_fitted_codebooks_leave_less_and_less():
    net = random_codec()
    left = net.quantizer.fit(torch.randn(400, CODEC.latent_dim))
    assert len(left) == 1 + CODEC.n_codebooks
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.6


def test_unused_codes_get_a_new_place():
    book = random_codec().quantizer.codebooks[0]
    book.usage.fill_(1.0)
    book.usage[3] = 0.0
    assert book.revive(torch.randn(10, CODEC.codebook_dim)) == 1
    assert float(book.usage[3]) == 1.0


def test_every_phase_of_the_codec_training_takes_a_step():
    training = CodecTraining(1.0, batch=2, crop_frames=8, judged_items=2, judged_frames=4)
    trainer = CodecTrainer(Codec(CODEC), training, torch.device("cpu"))
    labels = torch.zeros(2, trainer.crop_labels, dtype=torch.long)
    x = speech(8, batch=2)
    trainer.set_rates(1e-3, 1e-3, 1.0)
    before = trainer.net.state_dict()["decoder.model.0.conv.weight"].clone()
    assert trainer.step(x, labels).isfinite().all()
    trainer.start_quantizing(torch.randn(200, CODEC.latent_dim))
    assert trainer.step(x, labels).isfinite().all()
    trainer.start_judging()
    losses = trainer.step(x, labels)
    assert losses.isfinite().all()
    assert float(losses[-1]) > 0
    assert not torch.equal(before, trainer.net.state_dict()["decoder.model.0.conv.weight"])


def test_a_decoder_only_run_keeps_the_codes():
    training = CodecTraining(
        1.0, batch=2, crop_frames=8, judged_items=2, judged_frames=4, is_decoder_only=True
    )
    trainer = CodecTrainer(random_codec(), training, torch.device("cpu"))
    x, labels = speech(8, batch=2), torch.zeros(2, trainer.crop_labels, dtype=torch.long)
    trainer.net.eval()
    codes = trainer.net.encode(x)
    trainer.set_rates(1e-2, 1e-3, 1.0)
    for _ in range(2):
        trainer.step(x, labels)
    assert torch.equal(codes, trainer.net.encode(x))


def test_the_spectral_loss_is_zero_for_the_same_signal_alone():
    loss, x = SpectralLoss(), speech(4)[:, 0]
    assert [float(v) for v in loss(x, x)] == [0.0, 0.0]
    assert all(float(v) > 0.1 for v in loss(0.1 * x, x))


def test_pitch_classes_rise_with_the_pitch():
    time = torch.arange(16000) / 16000
    waves = torch.stack([0.3 * torch.sin(2 * torch.pi * hz * time) for hz in (90.0, 150.0, 300.0)])
    low, middle, high = pitch_classes(waves[:, None])[:, 10:40].median(1).values.tolist()
    assert 0 < low < middle < high
    assert int(pitch_classes(torch.zeros(1, 1, 3200)).max()) == 0


def test_a_captured_step_runs_plainly_without_a_gpu():
    step = CapturedStep(lambda x: x + 1, is_enabled=True)
    assert float(step(torch.tensor(1.0))) == 2.0


def test_an_exported_model_gives_the_products_logits(tmp_path):
    ours = write_lm(tmp_path)
    theirs = load_dual_ar(tmp_path, "cpu", torch.float32)
    voice = Prompt("Hi.", np.arange(4 * 5).reshape(4, 5) % 32)
    rows = prompt_rows(ours, "Hello.", voice)[None]
    positions = torch.arange(rows.shape[2])[None]
    sizes = (LM.n_layer, 1, LM.n_head, 64, LM.head_dim)
    cache = KVStore(*sizes, torch.device("cpu"), torch.float32).view(0)
    with torch.inference_mode():
        hidden, normed = ours.slow(rows)
        their_hidden = theirs.slow(rows, positions, cache)
        assert torch.allclose(hidden, their_hidden, atol=1e-5)
        their_logits = theirs.token_logits(their_hidden)
        assert torch.allclose(ours.token_logits(normed), their_logits, atol=1e-5)
    assert torch.equal(load_official_lm(tmp_path).embeddings.weight, ours.embeddings.weight)


def test_a_sentence_in_company_is_spoken_as_it_is_alone():
    net = DualAR(LM).eval()
    greedy = Sampling(temperature=0.0, max_frames=6)
    prompts = [prompt_rows(net, text, None) for text in ("A.", "A much longer text.")]
    together = generate(net, prompts, greedy, seed=1)
    alone = [generate(net, [prompt], greedy, seed=1)[0] for prompt in prompts]
    for (codes, ended), (own_codes, own_ended) in zip(together, alone, strict=True):
        assert np.array_equal(codes, own_codes)
        assert ended == own_ended


def test_speech_ends_where_the_end_token_is_likeliest():
    net = DualAR(LM).eval()
    with torch.no_grad():
        net.embeddings.weight.zero_()
        net.embeddings.weight[:, 0] = 1.0
        net.embeddings.weight[LM.im_end] *= 3.0
        net.norm.weight.fill_(1.0)
    rows = prompt_rows(net, "Hello.", None)
    _, normed = net.slow(rows[None])
    sign = torch.sign(normed[0, -1, 0])
    with torch.no_grad():
        net.norm.weight.mul_(sign)
    ((codes, has_ended),) = generate(net, [rows], Sampling(temperature=0.0, max_frames=5), seed=1)
    assert has_ended
    assert codes.shape == (LM.num_codebooks, 0)
