"""The bookkeeping around CUDA graphs, with a capture that works on a CPU.

That a captured graph gives the eager samples is shown on a card: ``tests/gpu``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.core.contract import FrameChunk
from backend.engine.codec_graphs import CodecGraphs
from backend.engine.decode_frames import FRAME_BUCKETS, StreamDecoder
from backend.models.codec.codec import Codec
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.ops import TorchOps
from tests.parity.codec_cases import codes_of
from tests.unit.models.codec_building import tiny_codec

if TYPE_CHECKING:
    from backend.engine.codec_graphs import Replay, Step


class BoundOnCpu:
    """Like a graph: the step over the tensors it was bound to, whatever they hold by then."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.replayed: list[tuple[int, int]] = []
        self.fails = False

    def __call__(self, step: Step, codes: Tensor, rows: Tensor, lengths: Tensor) -> Replay:
        if self.fails:
            raise torch.OutOfMemoryError("no room")
        size = (codes.shape[0], codes.shape[2])
        self.sizes.append(size)
        step(codes, rows, lengths)  # a capture warms up with the scratch row

        def replay() -> Tensor:
            self.replayed.append(size)
            return step(codes, rows, lengths)

        return replay


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny_codec()


def streams_of(codec: Codec, count: int, num_frames: int) -> list[np.ndarray]:
    codes = codes_of(codec.codebook_sizes, count * num_frames)[0].to(torch.int32)
    return [part.numpy() for part in codes.split(num_frames, -1)]


def assert_whole(codec: Codec, decoder: StreamDecoder, count: int, cuts: list[int]) -> None:
    streams = streams_of(codec, count, cuts[-1])
    heard = []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        chunks = [FrameChunk(slot, codes[:, start:stop]) for slot, codes in enumerate(streams)]
        heard.append(decoder.decode(chunks))
    for slot, codes in enumerate(streams):
        whole = codec.decode_frames(torch.from_numpy(codes).long()[None])[0].numpy()
        samples = np.concatenate([parts[slot] for parts in heard])
        assert np.abs(samples - whole).max() <= 1e-6
        decoder.release(slot)


def prepared(decoder: StreamDecoder) -> StreamDecoder:
    """Make every capture, those of quiet moments too."""
    decoder.warm_up()
    while decoder.prepare_one():
        pass
    return decoder


def test_replays_give_the_samples_of_the_whole(codec):
    capture = BoundOnCpu()
    decoder = prepared(StreamDecoder(codec, 5, 32, capture=capture))
    assert_whole(codec, decoder, 5, [1, 3, 7, 30])
    # five streams run in the bucket of eight, 23 frames as 16, 4, 2 and 1
    assert sorted(set(capture.replayed)) == [(8, 1), (8, 2), (8, 4), (8, 16)]
    assert len(capture.sizes) == len(set(capture.sizes))


def test_the_row_that_fills_batches_up_may_outlive_the_rotary_table(monkeypatch):
    monkeypatch.setattr("backend.engine.decode_frames.FIRST_POSITIONS", 8)
    codec = tiny_codec()  # a table of its own, of 1024 positions
    decoder = prepared(StreamDecoder(codec, 3, 32, capture=BoundOnCpu()))
    [codes] = streams_of(codec, 1, 32)
    heard: list[np.ndarray] = []
    for _ in range(1024 // 32 + 1):  # every batch of three advances the filler by 32
        heard = decoder.decode([FrameChunk(slot, codes) for slot in range(3)])
        for slot in range(3):
            decoder.release(slot)
    whole = codec.decode_frames(torch.from_numpy(codes).long()[None])[0].numpy()
    assert max(np.abs(samples - whole).max() for samples in heard) <= 1e-6


@pytest.mark.parametrize("captured", [True, False])
def test_the_fused_decoder_takes_pieces_of_unequal_length_together(captured):
    codec = tiny_codec()
    capture = BoundOnCpu()
    decoder = StreamDecoder(
        codec, 5, 8, capture=capture if captured else None, fused=FusedDecoder(codec, TorchOps())
    )
    prepared(decoder)
    streams = streams_of(codec, 5, 40)
    heard: list[list[np.ndarray]] = [[] for _ in streams]
    ends = [0] * 5
    for sizes in ([1, 1, 1, 1, 1], [3, 4, 2, 9, 30], [36, 35, 37, 30, 9]):
        chunks = [
            FrameChunk(slot, codes[:, end : end + size])
            for slot, (codes, end, size) in enumerate(zip(streams, ends, sizes, strict=True))
        ]
        for parts, samples in zip(heard, decoder.decode(chunks), strict=True):
            parts.append(samples)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    for codes, parts in zip(streams, heard, strict=True):
        whole = codec.decode_frames(torch.from_numpy(codes).long()[None])[0].numpy()
        assert np.abs(np.concatenate(parts) - whole).max() <= 1e-6
    if captured:  # pieces of 3 and 4 frames were one batch, of four times the chunk at most
        assert (2, 4) in capture.replayed
        assert max(frames for _, frames in capture.replayed) == 32


def test_a_crowd_in_the_fused_decoder_sounds_as_each_alone():
    codec, capture = tiny_codec(), BoundOnCpu()
    fused = FusedDecoder(codec, TorchOps())
    decoder = prepared(StreamDecoder(codec, 35, 32, capture=capture, fused=fused))
    assert_whole(codec, decoder, 35, [1, 3, 11])
    # twice as many frames together as where there are few slots
    assert capture.replayed[-2:] == [(32, 8), (4, 8)]


def test_nothing_is_captured_while_streams_wait(codec):
    capture = BoundOnCpu()
    decoder = StreamDecoder(codec, 4, 8, capture=capture)
    decoder.warm_up()
    known = list(capture.sizes)
    assert_whole(codec, decoder, 4, [4, 12])  # 4 and 8 frames of four streams: not yet captured
    assert capture.sizes == known
    assert capture.replayed == []
    assert decoder.prepare_one()
    assert len(capture.sizes) == len(known) + 1
    assert_whole(codec, prepared(decoder), 4, [4, 12])
    assert capture.replayed == [(4, 4), (4, 8)]


def test_a_larger_capture_serves_until_the_right_one_is_there():
    capture, step = BoundOnCpu(), lambda codes, rows, lengths: codes[:, 0].float()
    graphs = CodecGraphs(step, 4, 9, (1, 2, 4), torch.device("cpu"), capture)
    graphs.prepare(4, 1)

    def run_pair() -> Tensor:
        given = graphs.input_for(2, 1)
        given.codes[:2] = np.arange(8).reshape(2, 4, 1)
        given.rows[:2], given.lengths[:2] = (0, 1), 1
        return graphs.run(given)

    assert run_pair()[:2].tolist() == [[0.0], [4.0]]
    assert capture.replayed == [(4, 1)]
    assert graphs.prepare_one()  # the size that was missing
    run_pair()
    assert capture.replayed == [(4, 1), (2, 1)]
    assert not graphs.prepare_one()


def test_warm_up_captures_the_ramp_of_one_stream_and_the_beginnings_of_many(codec):
    capture = BoundOnCpu()
    decoder = StreamDecoder(codec, 3, 8, capture=capture)
    decoder.warm_up()
    beginnings = [(batch, frames) for frames in (1, 2) for batch in (1, 2, 4)]
    assert capture.sizes == [*beginnings, (1, 4), (1, 8)]
    prepared(decoder)
    assert set(capture.sizes) == {(batch, frames) for batch in (1, 2, 4) for frames in (1, 2, 4, 8)}


def test_without_batching_only_single_streams_are_captured(codec):
    capture = BoundOnCpu()
    decoder = prepared(StreamDecoder(codec, 3, 4, batching=False, capture=capture))
    assert_whole(codec, decoder, 3, [3, 6])
    assert {batch for batch, _ in capture.sizes} == {1}


def test_a_table_that_moves_drops_the_captures(codec, monkeypatch):
    monkeypatch.setattr("backend.engine.decode_frames.FIRST_POSITIONS", 8)
    fresh, capture = tiny_codec(), BoundOnCpu()
    decoder = prepared(StreamDecoder(fresh, 1, 32, capture=capture))
    [codes] = streams_of(fresh, 1, 32)
    for _ in range(33):
        decoder.decode([FrameChunk(0, codes)])
    assert len(capture.replayed) == 32  # the table of 1024 positions had to grow: then eager
    prepared(decoder)
    decoder.decode([FrameChunk(0, codes)])
    assert len(capture.replayed) == 33
    assert sorted(capture.sizes) == sorted(
        2 * [(1, frames) for frames in FRAME_BUCKETS if frames <= 32]
    )


def test_without_memory_for_a_capture_the_step_runs_eagerly_and_says_so(codec, caplog):
    capture = BoundOnCpu()
    capture.fails = True
    decoder = prepared(StreamDecoder(codec, 3, 32, capture=capture))
    assert_whole(codec, decoder, 3, [2, 5])
    assert "CUDA_GRAPHS=false" in caplog.text


def test_a_batch_beyond_the_last_bucket_is_refused():
    graphs = CodecGraphs(
        lambda codes, rows, lengths: codes, 4, 9, (1, 2), torch.device("cpu"), BoundOnCpu()
    )
    with pytest.raises(ValueError, match="at most 2"):
        graphs.input_for(3, 1)
