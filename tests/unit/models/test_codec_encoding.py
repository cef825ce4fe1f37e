"""Recordings of any length become codes; chunks bound the memory and change nothing."""

from __future__ import annotations

import pytest
import torch

from backend.models.codec.codec import Codec
from tests.parity.codec_cases import recording
from tests.unit.models.codec_building import tiny_codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny_codec()


@pytest.mark.parametrize(("num_samples", "frames"), [(1, 1), (31, 1), (32, 1), (33, 2), (97, 4)])
def test_a_begun_frame_counts_as_one(codec, num_samples, frames):
    codes = codec.encode_reference(recording(num_samples))
    assert codes.shape == (1, codec.num_codebooks, frames)
    assert codes.dtype == torch.int64


def test_the_end_is_filled_with_silence(codec):
    samples = recording(70)
    padded = torch.cat((samples, torch.zeros(1, 26)), -1)
    assert torch.equal(codec.encode_reference(samples), codec.encode_reference(padded))


@pytest.mark.parametrize("chunk_frames", [1, 5, 64, 157])
def test_chunks_do_not_change_the_codes(codec, chunk_frames):
    samples = recording(5000)
    whole = codec.encode_reference(samples, chunk_frames=10_000)
    assert torch.equal(codec.encode_reference(samples, chunk_frames=chunk_frames), whole)


def test_recordings_may_pass_the_official_limit_of_4096_frames(codec):
    samples = recording(4200 * 32)
    codes = codec.encode_reference(samples)
    assert codes.shape[-1] == 4200
    assert torch.equal(codec.encode_reference(samples, chunk_frames=10_000), codes)


def test_codes_do_not_depend_on_what_comes_later(codec):
    samples = recording(3200)
    codes = codec.encode_reference(samples)
    assert torch.equal(codec.encode_reference(samples[:, : 60 * 32]), codes[..., :60])


def test_rows_of_a_batch_do_not_see_each_other(codec):
    samples = torch.stack(recording(4000)[0].split(2000))
    codes = codec.encode_reference(samples, chunk_frames=20)
    for row, alone in enumerate(samples.split(1)):
        assert torch.equal(codec.encode_reference(alone)[0], codes[row])


@pytest.mark.parametrize("shape", [(100,), (1, 1, 100), (1, 0)])
def test_samples_of_a_wrong_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match="samples must be"):
        codec.encode_reference(torch.zeros(shape))
