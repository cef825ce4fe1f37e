"""The engine on a CUDA card says what it says on the CPU: ``python scripts/test.py --gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.core.model_location import POCKET_DIR
from backend.core.settings import read_settings
from backend.core.types import SamplingParams, Turn
from backend.opt_engine import OptimizedEngine

pytestmark = pytest.mark.gpu

TEXT = "The quick brown fox jumps over the lazy dog."
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
DRAWN = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=11)


def load(device: str, precision: str, **values: object) -> OptimizedEngine:
    settings = read_settings(
        None, device=device, mixed_precision=precision, codec_precision=precision, **values
    )
    return OptimizedEngine.load(settings, POCKET_DIR)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def cpu() -> Iterator[OptimizedEngine]:
    engine = load("cpu", "fp32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def card() -> Iterator[OptimizedEngine]:
    engine = load("cuda", "fp32")
    yield engine
    engine.close()


def speak(
    engine: OptimizedEngine, sampling: SamplingParams, turns: list[Turn] | None = None
) -> NDArray[np.int32]:
    slot = engine.prefill(TEXT, turns or [], sampling)
    frames: list[NDArray[np.int32]] = []
    while (result := engine.decode_step([slot])[0]).codes is not None:
        frames.append(result.codes)
    engine.release(slot)
    return np.stack(frames, axis=1)


def sound(engine: OptimizedEngine, codes: NDArray[np.int32]) -> NDArray[np.float32]:
    slot = engine.open_slot()
    [samples] = engine.decode_frames([FrameChunk(slot, codes)])
    engine.release(slot)
    return samples


def tone(engine: OptimizedEngine) -> NDArray[np.float32]:
    time_s = np.arange(engine.info.sample_rate * 2) / engine.info.sample_rate
    return (0.3 * np.sin(2 * np.pi * 150 * time_s)).astype(np.float32)


def test_greedy_codes_are_those_of_the_cpu(cpu: OptimizedEngine, card: OptimizedEngine):
    codes = speak(cpu, GREEDY)
    assert np.array_equal(speak(card, GREEDY), codes)
    turns = [Turn(TEXT, codes)]
    assert np.array_equal(speak(card, GREEDY, turns), speak(cpu, GREEDY, turns))


def test_samples_are_those_of_the_cpu(cpu: OptimizedEngine, card: OptimizedEngine):
    codes = speak(cpu, GREEDY)
    expected, heard = sound(cpu, codes), sound(card, codes)
    assert np.linalg.norm(heard - expected) <= 1e-4 * np.linalg.norm(expected)


def test_references_are_encoded_as_on_the_cpu(cpu: OptimizedEngine, card: OptimizedEngine):
    samples = tone(cpu)
    equal = card.encode_reference(samples) == cpu.encode_reference(samples)
    assert equal.mean() > 0.99  # a tie may be rounded the other way


def test_a_seed_repeats_its_take_on_the_card(card: OptimizedEngine):
    assert np.array_equal(speak(card, DRAWN), speak(card, DRAWN))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_speaks_and_ends(precision: str):
    engine = load("cuda", precision)
    engine.warm_up()
    codes = speak(engine, engine.info.sampling)
    assert 1.0 < codes.shape[1] / engine.info.frame_rate < 8.0
    assert np.abs(sound(engine, codes)).max() > 0.05
    used_bytes, peak_bytes = engine.memory_bytes()
    assert used_bytes is not None
    assert peak_bytes is not None
    assert 0 < used_bytes <= peak_bytes
    engine.close()


@pytest.mark.parametrize("kv", ["int8", "int4"])
def test_speech_with_keys_and_values_in_fewer_bits_ends(kv: str):
    values = {"host_embeddings": "all", "encoder_on_host": True, "kv_quantization": kv}
    engine = load("cuda", "bf16", max_seq_len=1024, chunk_size=8, **values)
    engine.warm_up()
    assert not any("KV_QUANTIZATION" in note for note in engine.info.notes)
    codes = speak(engine, engine.info.sampling)
    assert 1.0 < codes.shape[1] / engine.info.frame_rate < 8.0
    turns = [Turn(TEXT, codes)]
    first = speak(engine, engine.info.sampling, turns)
    assert np.array_equal(speak(engine, engine.info.sampling, turns), first)  # from the cache
    assert engine.cache_counters()["prefix_kv"].hits > 0
    engine.close()


def test_prompts_together_speak_what_they_speak_alone(card: OptimizedEngine):
    texts = [TEXT, "One.", "A much longer sentence, which was written to fill some rows."]
    slots = card.prefill_many([(text, [], GREEDY) for text in texts])
    together = [card.decode_step([slot])[0].codes for slot in slots]
    for slot in slots:
        card.release(slot)
    for text, codes in zip(texts, together, strict=True):
        slot = card.prefill(text, [], GREEDY)
        alone = card.decode_step([slot])[0].codes
        assert alone is not None
        assert codes is not None
        assert np.array_equal(alone, codes)
        card.release(slot)
