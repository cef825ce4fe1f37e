"""How the frames of a call are laid out for the codec's step, and where the samples go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.core.contract import FrameChunk
from backend.engine.codec_batches import Batch, Piece, StepInput
from backend.engine.decode_frames import DecodePlan, StreamDecoder
from tests.unit.models.codec_building import tiny_codec

NUM_CODEBOOKS, FRAME_LENGTH = 3, 2
CPU = torch.device("cpu")


def codes_of(*lengths: int) -> list[np.ndarray]:
    total = np.arange(NUM_CODEBOOKS * sum(lengths), dtype=np.int32).reshape(NUM_CODEBOOKS, -1)
    return np.split(total, np.cumsum(lengths)[:-1], axis=1)


@pytest.mark.parametrize(
    ("lengths", "pieces", "num_frames", "are_whole", "is_joined"),
    [
        ((4, 4), [(0, 0, 4), (1, 0, 4)], 4, True, True),
        ((4, 4), [(1, 0, 4), (0, 0, 4)], 4, True, False),
        ((4, 4), [(0, 0, 4), (1, 0, 4)], 8, False, True),
        ((4, 9), [(0, 0, 4), (1, 0, 4)], 4, False, True),
        ((9, 4), [(0, 4, 8), (1, 0, 4)], 4, False, False),
        ((3, 4), [(0, 0, 3), (1, 0, 4)], 4, False, False),
    ],
)
def test_frames_are_laid_out_for_the_step_and_samples_brought_to_their_places(
    lengths, pieces, num_frames, are_whole, is_joined
):
    starts = (0, *np.cumsum(lengths).tolist())
    batch = Batch.of([Piece(*piece) for piece in pieces], num_frames, starts)
    assert (batch.are_whole, batch.is_joined) == (are_whole, is_joined)
    codes, rows = codes_of(*lengths), np.array([7, 5])
    given = StepInput.new(4, NUM_CODEBOOKS, num_frames, CPU)
    given.packed.fill_(-1)  # whatever was there before
    given.fill_up(len(pieces), scratch_row=9)
    batch.write(codes, rows, given)
    on_device = [values.numpy() for values in given.on(CPU)]
    expected = np.zeros((4, NUM_CODEBOOKS, num_frames), np.int64)
    for row, (stream, start, stop) in zip(expected, pieces, strict=False):
        row[:, : stop - start] = codes[stream][:, start:stop]
    assert np.array_equal(on_device[0], expected)
    assert on_device[1].tolist() == [*(rows[stream] for stream, _, _ in pieces), 9, 9]
    assert on_device[2].tolist() == [*(b - a for _, a, b in pieces), num_frames, num_frames]

    samples = torch.from_numpy(expected[:, 0]).float()[..., None].expand(-1, -1, FRAME_LENGTH)
    on_host = torch.full((sum(lengths), FRAME_LENGTH), -1.0)
    batch.fetch(samples, on_host)
    for stream, start, stop in pieces:
        heard = on_host[starts[stream] + start : starts[stream] + stop, 1].numpy()
        assert np.array_equal(heard, codes[stream][0, start:stop])
    assert (on_host >= 0).sum() == FRAME_LENGTH * sum(b - a for _, a, b in pieces)


def test_a_call_of_the_same_lengths_is_cut_once(monkeypatch):
    cut: list[tuple[int, ...]] = []
    batches = DecodePlan.batches
    monkeypatch.setattr(
        DecodePlan, "batches", lambda plan, lengths: cut.append(lengths) or batches(plan, lengths)
    )
    codec = tiny_codec()
    decoder = StreamDecoder(codec, 3, 13)  # a plan of its own
    for slots, sizes in (((0, 1), (2, 5)), ((2, 0), (2, 5)), ((1, 2), (5, 2))):
        decoder.decode(
            [
                FrameChunk(slot, np.zeros((codec.num_codebooks, size), np.int32))
                for slot, size in zip(slots, sizes, strict=True)
            ]
        )
    assert cut == [(2, 5), (5, 2)]
