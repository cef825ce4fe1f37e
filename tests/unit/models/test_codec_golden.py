"""Our codec against stored results of the official one (see ``scripts/make_codec_goldens.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parity.codec_cases import TINY_FRAMES, TINY_RECORDINGS, codes_of, recording
from tests.unit.models.codec_building import tiny_codec

GOLDEN = load_file(Path(__file__).parents[2] / "data" / "codec_golden.safetensors")


@pytest.mark.parametrize(("idx", "num_samples"), list(enumerate(TINY_RECORDINGS)))
def test_codes_equal_those_of_the_official_codec(idx, num_samples):
    expected = GOLDEN[f"encoded.{idx}"]
    assert expected[:, 0].unique().numel() > 1 or expected.shape[-1] == 1
    assert torch.equal(tiny_codec().encode_reference(recording(num_samples)), expected)


@pytest.mark.parametrize(("idx", "num_frames"), list(enumerate(TINY_FRAMES)))
def test_samples_equal_those_of_the_official_codec(idx, num_frames):
    codec, expected = tiny_codec(), GOLDEN[f"decoded.{idx}"]
    samples = codec.decode_frames(codes_of(codec.codebook_sizes, num_frames))
    assert 0.01 < expected.std() < 0.3  # neither silence nor a saturated tanh
    assert (samples - expected).norm() / expected.norm() < 1e-5


def test_codes_beyond_a_codebook_mean_its_last_entry():
    codec = tiny_codec()
    last = torch.tensor(codec.codebook_sizes)[None, :, None] - 1
    assert torch.equal(codec.decode_frames(last + 1000), codec.decode_frames(last))
