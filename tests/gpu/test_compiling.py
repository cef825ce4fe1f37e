"""Layers under torch.compile on a card say what plain ones say there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.core.model_location import POCKET_DIR
from backend.core.settings import read_settings
from backend.core.types import SamplingParams
from backend.engine.compiling import compiled_ops
from backend.engine.step_ops import module_ops
from backend.models.checkpoint import load_dual_ar
from backend.opt_engine import OptimizedEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    # what PyTorch's compiler tells of itself: as an error it would end the compilation
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hi.",
    "We walked until the sun went down.",
)
BOUNDS = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
"""Relative error of one layer against plain PyTorch in the same format."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(data_dir: Path, **values: Any) -> OptimizedEngine:
    settings = read_settings(
        None, device="cuda", max_seq_len=512, fused_kernels=False, data_dir=data_dir, **values
    )
    return OptimizedEngine.load(settings, POCKET_DIR)


def spoken(engine: OptimizedEngine, most: int) -> list[NDArray[np.int32]]:
    slots = [engine.prefill(text, [], GREEDY) for text in TEXTS]
    frames: dict[int, list[NDArray[np.int32]]] = {slot: [] for slot in slots}
    live = list(slots)
    for _ in range(most):
        for result in engine.decode_step(live) if live else []:
            if result.codes is None:
                live.remove(result.slot)
            else:
                frames[result.slot].append(result.codes)
    for slot in slots:
        engine.release(slot)
    return [np.stack(frames[slot], axis=1) for slot in slots]


def sound(engine: OptimizedEngine, codes: list[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    slots = [engine.open_slot() for _ in codes]
    heard = engine.decode_frames(
        [FrameChunk(slot, each) for slot, each in zip(slots, codes, strict=True)]
    )
    for slot in slots:
        engine.release(slot)
    return heard


def test_compiled_layers_in_graphs_say_what_plain_ones_say(tmp_path: Path):
    values = {"mixed_precision": "fp32", "codec_precision": "fp32"}
    plain = load(tmp_path, **values)
    plain.warm_up()
    expected = spoken(plain, 200)
    samples = sound(plain, expected)
    plain.close()
    engine = load(tmp_path, enable_torch_compile=True, **values)
    assert sum(note.startswith("torch.compile: ") for note in engine.info.notes) == 2
    engine.warm_up()
    assert all(map(np.array_equal, spoken(engine, 200), expected))
    for heard, wanted in zip(sound(engine, expected), samples, strict=True):
        assert np.linalg.norm(heard - wanted) <= 1e-4 * np.linalg.norm(wanted)
    engine.close()


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
@torch.inference_mode()
def test_a_layer_differs_by_rounding_alone(name: str, tmp_path: Path):
    model = load_dual_ar(POCKET_DIR, "cuda", DTYPES[name])
    settings = read_settings(None, enable_torch_compile=True, data_dir=tmp_path)
    ops, [note] = compiled_ops(model, settings)
    assert note.startswith("torch.compile: ")
    plain = module_ops(model)
    generator = torch.Generator("cuda").manual_seed(3)
    for num_rows in (1, 5):
        x = torch.randn(num_rows, model.config.dim, device="cuda", generator=generator)
        x = x.to(DTYPES[name])
        angles = model.rope[7 : 7 + num_rows]
        for ours, theirs in zip(ops.slow, plain.slow, strict=True):
            heads, expected = ours.project(x, angles), theirs.project(x, angles)
            ends = (ours.finish(x, heads[0].flatten(1)), theirs.finish(x, heads[0].flatten(1)))
            for got, wanted in [*zip(heads, expected, strict=True), ends]:
                error = (got.float() - wanted.float()).norm() / wanted.float().norm()
                assert error <= BOUNDS[name]
