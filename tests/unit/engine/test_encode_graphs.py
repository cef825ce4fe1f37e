"""Recordings in chunks of fixed lengths get the codes of the whole, in any order of chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engine import encode_graphs
from backend.engine.encode_graphs import EncodeGraphs
from backend.engine.encode_reference import ReferenceEncoder
from backend.models.codec.codec import Codec
from backend.models.codec.fused.encoder import FusedEncoder
from backend.models.codec.fused.ops import TorchOps
from tests.parity.codec_cases import recording
from tests.unit.models.codec_building import tiny_codec

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
CPU = torch.device("cpu")
LENGTHS = (4, 8, 16)


class Tape:
    """Replays a step by running it, and counts the captures."""

    def __init__(self, room_for: int = 99) -> None:
        self.num_captures, self.room_for = 0, room_for

    def __call__(self, step: Callable[[], Tensor | None], /) -> Callable[[], Tensor | None]:
        if self.num_captures == self.room_for:
            raise torch.OutOfMemoryError
        self.num_captures += 1
        step()  # a capture runs the step and leaves its traces in the state
        return step


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_graphs, "CHUNK_FRAMES", LENGTHS)
    monkeypatch.setattr(encode_graphs, "MOST_FRAMES", 40)


def samples_of(codec: Codec, num_frames: int, less: int = 0) -> np.ndarray:
    return recording(num_frames * codec.frame_length - less)[0].numpy()


def codes_of(codec: Codec, samples: np.ndarray) -> np.ndarray:
    return codec.encode_reference(torch.from_numpy(samples)[None], chunk_frames=400)[0].numpy()


def prepared(codec: Codec, tape: Tape | None = None) -> EncodeGraphs:
    graphs = EncodeGraphs(codec, tape or Tape())
    while graphs.prepare_one():
        pass
    return graphs


@pytest.mark.parametrize("is_fused", [False, True])
def test_recordings_of_any_length_one_after_another_get_their_codes(is_fused):
    codec = tiny_codec()
    lengths = [(1, 3), (16, 0), (4, 0), (37, 11), (16, 5), (5, 1), (2, 0)]
    recordings = [samples_of(codec, frames, less) for frames, less in lengths]
    expected = [codes_of(codec, samples) for samples in recordings]
    if is_fused:
        codec.fused_encoder = FusedEncoder(codec, TorchOps())
    graphs = prepared(codec)
    for samples, codes in zip(recordings, expected, strict=True):
        assert np.array_equal(graphs.encode(samples), codes)
        assert graphs.encode(samples).dtype == np.int32


def test_the_longest_chunk_is_captured_first_and_serves_all_lengths():
    codec, tape = tiny_codec(), Tape()
    graphs = EncodeGraphs(codec, tape)
    samples = samples_of(codec, 21)
    assert not graphs.can_encode(len(samples))
    with pytest.raises(ValueError, match="no graphs"):
        graphs.encode(samples)
    assert graphs.prepare_one()
    assert graphs.num_graphs == 1
    assert graphs.can_encode(len(samples))
    assert np.array_equal(graphs.encode(samples), codes_of(codec, samples))
    assert graphs.prepare_one()
    assert graphs.prepare_one()
    assert not graphs.prepare_one()
    assert graphs.num_graphs == len(LENGTHS)
    assert tape.num_captures == 1 + len(LENGTHS)  # and that which begins a recording


def test_longer_recordings_than_the_tables_hold_have_no_graphs():
    codec = tiny_codec()
    graphs = prepared(codec)
    assert graphs.can_encode(40 * codec.frame_length)
    assert not graphs.can_encode(40 * codec.frame_length + 1)
    with pytest.raises(ValueError, match="41 frames"):
        graphs.encode(samples_of(codec, 41))


def test_graphs_outlive_a_longer_recording():
    codec = tiny_codec()
    graphs = prepared(codec)
    samples = samples_of(codec, 30)
    expected = graphs.encode(samples)
    codec.encode_reference(torch.zeros(1, 3000 * codec.frame_length), chunk_frames=64)
    assert np.array_equal(graphs.encode(samples), expected)


def test_a_length_without_memory_is_told_and_the_others_serve(caplog):
    codec = tiny_codec()
    graphs = EncodeGraphs(codec, Tape(room_for=3))  # not for the last, which is the shortest
    with caplog.at_level(logging.WARNING):
        while graphs.prepare_one():
            pass
    assert "4 frames" in caplog.text
    assert graphs.num_graphs == 2
    samples = samples_of(codec, 3)
    assert np.array_equal(graphs.encode(samples), codes_of(codec, samples))


def test_no_memory_for_any_leaves_the_eager_path():
    codec = tiny_codec()
    graphs = prepared(codec, Tape(room_for=0))
    assert not graphs.can_encode(codec.frame_length)


def test_a_large_encoder_is_loaded_and_captured_in_quiet_moments(monkeypatch):
    from backend.engine import encode_reference

    plain = ReferenceEncoder(POCKET, CPU)
    monkeypatch.setattr(encode_reference, "MOST_EAGER_BYTES", 0)
    tape = Tape()
    encoder = ReferenceEncoder(POCKET, CPU, capture=tape)
    assert not encoder.is_loaded
    assert encoder.prepare_one()
    assert encoder.is_loaded
    samples = recording(30_000)[0].numpy()
    assert np.array_equal(encoder.encode(samples), plain.encode(samples))  # eagerly so far
    while encoder.prepare_one():
        pass
    assert tape.num_captures == 1 + len(LENGTHS)
    assert np.array_equal(encoder.encode(samples), plain.encode(samples))


@pytest.mark.parametrize("values", [{}, {"capture": Tape(), "is_on_host": True}])
def test_without_graphs_there_is_nothing_to_prepare(values):
    assert not ReferenceEncoder(POCKET, CPU, **values).prepare_one()
