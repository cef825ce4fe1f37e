"""A seed draws on a card the codes in company that it draws alone: ``BATCH_INVARIANT``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.model_location import POCKET_DIR
from backend.core.settings import read_settings
from backend.core.types import SamplingParams
from backend.opt_engine import OptimizedEngine

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("needs a card", allow_module_level=True)

pytestmark = pytest.mark.gpu

TEXT = "The quick brown fox jumps over the lazy dog."
OTHERS = ("One.", "A much longer sentence, which was written to fill some rows.", "Where to?")
NUM_FRAMES = 120
TAKE = SamplingParams(temperature=0.8, top_p=0.9, seed=11, min_new_tokens=2 * NUM_FRAMES)


def load(**values: Any) -> OptimizedEngine:
    settings = read_settings(None, device="cuda", max_seq_len=1024, **values)
    return OptimizedEngine.load(settings, POCKET_DIR)


def take(engine: OptimizedEngine, *, company: tuple[str, ...] = ()) -> NDArray[np.int32]:
    """Codes ``[K, NUM_FRAMES]`` of one seed while others come one by one and leave again."""
    other = SamplingParams(temperature=1.0, seed=5, min_new_tokens=2 * NUM_FRAMES)
    prompts = [(text, [], other) for text in company]
    *slots, own = engine.prefill_many([*prompts[:1], (TEXT, [], TAKE)])
    waiting, frames = prompts[1:], []
    while len(frames) < NUM_FRAMES:
        if waiting and len(frames) % 20 == 10:
            slots += engine.prefill_many([waiting.pop(0)])
        if not waiting and slots and len(frames) % 10 == 9:
            engine.release(slots.pop())
        *_, result = engine.decode_step([*slots, own])
        assert result.codes is not None
        frames.append(result.codes)
    for slot in [*slots, own]:
        engine.release(slot)
    return np.stack(frames, axis=1)


@pytest.mark.parametrize(
    "values",
    [
        {"mixed_precision": "bf16"},
        {"mixed_precision": "fp16"},
        {"mixed_precision": "bf16", "resident_kernels": False},
        {"mixed_precision": "bf16", "quantization": "int8"},
        {"mixed_precision": "bf16", "quantization": "nf4"},
        {"mixed_precision": "bf16", "kv_quantization": "int8"},
        {"mixed_precision": "bf16", "cuda_graphs": False},
        {"mixed_precision": "bf16", "max_slots": 32, "batch_invariant": "on"},
    ],
    ids=lambda values: "-".join(str(value) for value in values.values()),
)
@torch.inference_mode()
def test_a_seed_draws_the_same_codes_alone_and_in_company(values: dict[str, Any]):
    engine = load(**values)
    assert not any("BATCH_INVARIANT" in note for note in engine.info.notes)
    alone = take(engine)
    assert np.array_equal(take(engine, company=OTHERS), alone)
    assert len(np.unique(alone)) > 50
    engine.close()


def test_what_cannot_keep_it_says_so():
    engine = load(mixed_precision="bf16", fused_kernels=False, batch_invariant="on")
    assert any("BATCH_INVARIANT" in note for note in engine.info.notes)
    engine.close()
