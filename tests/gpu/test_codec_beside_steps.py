"""With a stream of its own the codec makes the same bits, whatever the steps do meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.contract import FrameChunk, FramesInWork
from backend.core.model_location import POCKET_DIR
from backend.core.settings import read_settings
from backend.core.types import SamplingParams
from backend.opt_engine import OptimizedEngine

pytestmark = pytest.mark.gpu

NUM_ROWS, NUM_FRAMES = 24, 40
CHUNKS = (1, 2, 4, 8, 8, 8, 8)
TEXT = "The quick brown fox jumps over the lazy dog."


def load(num_streams: int, *, has_graphs: bool) -> OptimizedEngine:
    settings = read_settings(
        None, device="cuda", max_slots=NUM_ROWS, num_streams=num_streams, cuda_graphs=has_graphs
    )
    engine = OptimizedEngine.load(settings, POCKET_DIR)
    engine.warm_up()
    while engine.prepare_one():
        pass
    return engine


def speak_all(
    engine: OptimizedEngine, *, is_beside: bool
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Draw frames for every slot; chunks are collected at once or some steps later.

    Returns:
        Codes ``[B, K, F]`` and samples ``[B, S]``.
    """
    slots = [
        engine.prefill(
            TEXT, [], SamplingParams(seed=idx, min_new_tokens=NUM_FRAMES, max_new_tokens=NUM_FRAMES)
        )
        for idx in range(NUM_ROWS)
    ]
    frames: list[list[NDArray[np.int32]]] = [[] for _ in slots]
    heard: list[list[NDArray[np.float32]]] = [[] for _ in slots]
    in_work: FramesInWork | None = None
    num_sent, num_left = 0, list(CHUNKS)

    def hand_out() -> None:
        if in_work is not None:
            for parts, samples in zip(heard, in_work.collect(), strict=True):
                parts.append(samples)

    for step in range(NUM_FRAMES):
        for parts, result in zip(frames, engine.decode_step(slots), strict=True):
            assert result.codes is not None
            parts.append(result.codes)
        if num_left and step + 1 - num_sent >= num_left[0]:
            size = num_left.pop(0)
            hand_out()
            chunks = [
                FrameChunk(slot, np.stack(parts[num_sent : num_sent + size], axis=1))
                for slot, parts in zip(slots, frames, strict=True)
            ]
            in_work = engine.begin_frames(chunks)
            num_sent += size
            if not is_beside:
                hand_out()
                in_work = None
            if num_sent == 7:  # the codec's other half, in between
                engine.encode_reference(np.zeros(engine.info.frame_length * 9, np.float32))
    hand_out()
    for slot in slots:
        engine.release(slot)
    codes = np.stack([np.stack(parts, axis=1) for parts in frames])
    return codes, np.stack([np.concatenate(parts) for parts in heard])


@pytest.mark.parametrize("has_graphs", [True, False])
def test_codes_and_samples_are_those_of_one_stream(has_graphs):
    one, two = (load(num_streams, has_graphs=has_graphs) for num_streams in (1, 2))
    assert not one.decodes_beside(NUM_ROWS)
    assert two.decodes_beside(NUM_ROWS)
    codes, samples = speak_all(one, is_beside=False)
    for _ in range(3):
        codes_beside, samples_beside = speak_all(two, is_beside=True)
        assert np.array_equal(codes_beside, codes)
        assert np.array_equal(samples_beside, samples)
    one.close()
    two.close()
