"""Streams decoded together: equal to alone and to whole, whatever the cuts, slots and company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.engine.decode_frames import (
    FRAME_BUCKETS,
    MOST_FRAMES_AT_ONCE,
    MOST_FRAMES_ON_CPU,
    DecodePlan,
    StreamDecoder,
    fused_plan,
)
from backend.models.codec.codec import Codec
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import codes_of
from tests.unit.models.codec_building import tiny_codec

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
RAMP = [1, 2, 4, 8, 16, 9]
TOLERANCE = 1e-6
"""Float32 products round differently at another batch size; nothing else may differ."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny_codec()


def streams_of(codec: Codec, count: int, num_frames: int) -> list[NDArray[np.int32]]:
    codes = codes_of(codec.codebook_sizes, count * num_frames)[0].to(torch.int32)
    return [part.numpy() for part in codes.split(num_frames, -1)]


def whole(codec: Codec, codes: NDArray[np.int32]) -> NDArray[np.float32]:
    return codec.decode_frames(torch.from_numpy(codes).long()[None])[0].numpy()


def play(
    decoder: StreamDecoder, streams: dict[int, NDArray[np.int32]], cuts: dict[int, list[int]]
) -> dict[int, NDArray[np.float32]]:
    """Feed each slot its stream, one piece of its cuts per call, all slots in every call."""
    waiting = {
        slot: np.split(codes, np.cumsum(cuts[slot])[:-1], axis=1) for slot, codes in streams.items()
    }
    heard: dict[int, list[NDArray[np.float32]]] = {slot: [] for slot in streams}
    while any(waiting.values()):
        chunks = [FrameChunk(slot, parts.pop(0)) for slot, parts in waiting.items() if parts]
        for chunk, samples in zip(chunks, decoder.decode(chunks), strict=True):
            heard[chunk.slot].append(samples)
    return {slot: np.concatenate(parts) for slot, parts in heard.items()}


def assert_close(heard: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert heard.shape == expected.shape
    assert heard.dtype == np.float32
    assert np.abs(heard - expected).max() <= TOLERANCE


@pytest.mark.parametrize("batching", [True, False])
def test_a_ramp_in_company_gives_the_samples_of_the_whole(codec, batching):
    streams = dict(enumerate(streams_of(codec, 5, 40)))
    decoder = StreamDecoder(codec, 5, 32, batching=batching)
    heard = play(decoder, streams, dict.fromkeys(streams, RAMP))
    for slot, codes in streams.items():
        assert_close(heard[slot], whole(codec, codes))


def test_streams_of_different_chunk_lengths_share_calls(codec):
    cuts = {3: [40], 0: [1] * 40, 2: RAMP, 1: [3, 5, 32]}
    streams = dict(zip(cuts, streams_of(codec, 4, 40), strict=True))
    heard = play(StreamDecoder(codec, 4, 7), streams, cuts)
    for slot, codes in streams.items():
        assert_close(heard[slot], whole(codec, codes))


def test_the_pocket_voice_in_company_is_the_voice_alone():
    pocket = load_codec(POCKET, parts="decode")
    streams = dict(enumerate(streams_of(pocket, 3, 15)))
    cuts = {slot: [1, 2, 4, 8] for slot in streams}
    heard = play(StreamDecoder(pocket, 3, 32), streams, cuts)
    for slot, codes in streams.items():
        alone = play(StreamDecoder(pocket, 3, 32), {slot: codes}, cuts)
        assert_close(heard[slot], alone[slot])
        assert_close(heard[slot], whole(pocket, codes))


@pytest.mark.parametrize("opened", [True, False])
def test_a_released_slot_carries_nothing_over(codec, opened):
    first, second, other = streams_of(codec, 3, 12)
    decoder = StreamDecoder(codec, 2, 32)
    decoder.decode([FrameChunk(0, first), FrameChunk(1, other[:, :6])])
    decoder.release(0)
    if opened:
        decoder.open(0)
    fresh, rest = decoder.decode([FrameChunk(0, second), FrameChunk(1, other[:, 6:])])
    assert_close(fresh, whole(codec, second))
    assert_close(rest, whole(codec, other)[6 * codec.frame_length :])


def test_a_stream_that_was_not_released_goes_on(codec):
    [codes] = streams_of(codec, 1, 12)
    decoder = StreamDecoder(codec, 1, 32)
    decoder.decode([FrameChunk(0, codes[:, :6])])
    [rest] = decoder.decode([FrameChunk(0, codes[:, 6:])])
    restarted = whole(codec, codes[:, 6:])
    assert np.abs(rest - restarted).max() > 1e-3


def test_streams_may_outgrow_the_first_table(codec, monkeypatch):
    monkeypatch.setattr("backend.engine.decode_frames.FIRST_POSITIONS", 8)
    streams = dict(enumerate(streams_of(codec, 2, 1100)))
    heard = play(StreamDecoder(codec, 2, 64), streams, {0: [500, 600], 1: [1100]})
    for slot, codes in streams.items():
        assert_close(heard[slot], whole(codec, codes))


def test_codes_looked_up_in_one_table_mean_the_same():
    codec = tiny_codec()
    codes = codes_of(codec.codebook_sizes, 9)
    codes[0, :, 3] = 10_000  # beyond every codebook: the last entry
    plain = codec.decode_frames(codes)
    codec.quantizer.fold_lookups()
    assert (codec.decode_frames(codes) - plain).abs().max() <= TOLERANCE


def test_no_chunks_give_no_samples(codec):
    assert StreamDecoder(codec, 1, 32).decode([]) == []


@pytest.mark.parametrize(
    ("slots", "shape", "named"),
    [
        ([0, 0], (4, 3), "twice"),
        ([0], (3, 3), r"\[4, F > 0\], got \[3, 3\]"),
        ([0], (4, 0), "no frames"),
        ([2], (4, 3), "slot 2"),
        ([-1], (4, 3), "slot -1"),
    ],
)
def test_a_bad_call_is_refused_and_moves_nothing(codec, slots, shape, named):
    [codes] = streams_of(codec, 1, 8)
    decoder = StreamDecoder(codec, 2, 32)
    [head] = decoder.decode([FrameChunk(1, codes[:, :4])])
    bad = [FrameChunk(slot, np.zeros(shape, np.int32)) for slot in slots]
    with pytest.raises(ValueError, match=named):
        decoder.decode([FrameChunk(1, codes[:, 4:]), *bad])
    [tail] = decoder.decode([FrameChunk(1, codes[:, 4:])])
    assert_close(np.concatenate((head, tail)), whole(codec, codes))


@pytest.mark.parametrize("fixed_lengths", [True, False])
@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize("max_frames", [1, 20, 32, 200])
@pytest.mark.parametrize("most_frames", [MOST_FRAMES_ON_CPU, MOST_FRAMES_AT_ONCE])
def test_a_plan_covers_every_frame_once_in_order(max_frames, batching, fixed_lengths, most_frames):
    lengths = [0, 1, 23, 40, 200, *[3] * 100]
    plan = DecodePlan(max_frames, batching, fixed_lengths, most_frames)
    done = [0] * len(lengths)
    for pieces in plan.batches(lengths):
        assert len({piece.stream for piece in pieces}) == len(pieces)
        [size] = {piece.stop - piece.start for piece in pieces}
        assert size <= max_frames
        assert size in FRAME_BUCKETS or not fixed_lengths
        assert len(pieces) == 1 or (batching and len(pieces) * size <= most_frames)
        for piece in pieces:
            assert piece.start == done[piece.stream]
            done[piece.stream] = piece.stop
    assert done == lengths


@pytest.mark.parametrize(("num_slots", "together"), [(4, 128), (16, 128), (17, 256), (128, 256)])
def test_engines_of_many_slots_decode_more_frames_together_and_a_file_as_before(
    num_slots, together
):
    plan = fused_plan(32, num_slots, batching=True, has_graphs=True)
    [sizes] = {tuple(len(pieces) for pieces in plan.batches([8] * 64))}
    assert sizes == (together // 8,) * (512 // together)
    file = [(piece.stop - piece.start) for pieces in plan.batches([216]) for piece in pieces]
    assert file == [128, 88]
    assert max(batch * frames for batch, frames in plan.sizes(num_slots)) <= together
