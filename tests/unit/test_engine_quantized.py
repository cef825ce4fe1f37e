"""The engine with quantized weights: it speaks, repeats itself, and says what it runs with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.core.contract import FrameChunk
from backend.core.settings import read_settings
from backend.core.types import SamplingParams
from backend.opt_engine import OptimizedEngine

POCKET = Path(__file__).parents[2] / "backend" / "pocket"
TEXT = "The brown fox jumps over the dog."


def load(**values: object) -> OptimizedEngine:
    settings = read_settings(None, device="cpu", cpu_threads=1, max_seq_len=1024, **values)
    return OptimizedEngine.load(settings, POCKET)


@pytest.fixture(scope="module", params=["int8", "nf4"])
def engine(request: pytest.FixtureRequest) -> Iterator[OptimizedEngine]:
    engine = load(quantization=request.param)
    yield engine
    engine.close()


def speak(engine: OptimizedEngine, sampling: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[K, F]`` and samples of ``TEXT``."""
    slot, frames = engine.prefill(TEXT, [], sampling), []
    while (codes := engine.decode_step([slot])[0].codes) is not None:
        frames.append(codes)
    codes = np.stack(frames, axis=1)
    [samples] = engine.decode_frames([FrameChunk(slot, codes)])
    engine.release(slot)
    return codes, samples


def test_it_speaks_for_as_long_as_the_sentence_takes(engine: OptimizedEngine) -> None:
    sampling = engine.info.sampling
    codes, samples = speak(engine, sampling)
    seconds = codes.shape[1] / engine.info.frame_rate
    assert 1.0 < seconds < 4.5  # 33 characters, 7 words
    assert codes.shape[1] < sampling.max_new_tokens
    loudness = float(np.sqrt(np.mean(samples**2)))
    assert 0.01 < loudness < 0.5


def test_the_same_seed_draws_the_same_codes(engine: OptimizedEngine) -> None:
    sampling = SamplingParams(seed=3, max_new_tokens=12)
    assert np.array_equal(speak(engine, sampling)[0], speak(engine, sampling)[0])


def test_it_says_what_it_runs_with(engine: OptimizedEngine) -> None:
    info = engine.info
    plain = load()
    assert plain.info.quantization == "none"
    assert info.quantization in {"int8", "nf4"}
    assert info.revision != plain.info.revision  # other codes: nothing cached may be shared
    assert info.memory_plan["weights"] < plain.info.memory_plan["weights"]
    assert plain.info.notes == ()
    assert any(info.quantization in note.lower() for note in info.notes)
    plain.close()
