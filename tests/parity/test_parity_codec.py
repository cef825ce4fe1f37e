"""Our codec against the official one, run live in its own environment.

Seen on two x86 cores with torch 2.13.0, float32: all codes equal at every size (1,670 of the
full-size codec, 7,770 of the pocket voice's own speech); relative error of the samples 2.0e-6 at
full size, 2.4e-7 to 4.5e-7 with the pocket voice; streams within 6.1e-7 and 3.6e-7 of the whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.models.codec.codec import Codec
from backend.models.codec.weights import load_codec, read_codec, unfold_weight_norm
from tests.parity.codec_cases import TINY, codes_of, recording
from tests.parity.reference import run_oracle
from tests.unit.models.codec_building import tiny_codec

pytestmark = [pytest.mark.reference, pytest.mark.timeout(1200)]

POCKET = Path(__file__).parents[2] / "backend" / "pocket"
RAMP = [1, 1, 2, 4, 8, 8]


def official(folder: Path, **job: Any) -> dict[str, list[torch.Tensor]]:
    nothing = {"sizes": None, "load": None, "save": None, "recordings": [], "codes": []}
    return run_oracle("codec_oracle.py", {**nothing, "frames": [], **job}, folder)


def relative_error(samples: torch.Tensor, expected: torch.Tensor) -> float:
    assert samples.shape == expected.shape
    assert expected.abs().max() < 0.999  # a saturated tanh would hide errors
    assert expected.std() > 0.01
    return ((samples - expected).norm() / expected.norm()).item()


def streamed(codec: Codec, codes: torch.Tensor, chunking: list[int]) -> torch.Tensor:
    state = codec.new_decode_state(codes.shape[0])
    return torch.cat([codec.decode_stream(c, state) for c in codes.split(chunking, -1)], -1)


def test_the_tiny_codec_equals_the_official_one(tmp_path):
    frames, lengths = [1, 7, 160], [1, 32, 5000]
    theirs = official(tmp_path, sizes=TINY, recordings=lengths, frames=frames)
    codec = tiny_codec()
    for num_samples, expected in zip(lengths, theirs["encoded"], strict=True):
        assert torch.equal(codec.encode_reference(recording(num_samples)), expected)
    for num_frames, expected in zip(frames, theirs["decoded"], strict=True):
        codes = codes_of(codec.codebook_sizes, num_frames)
        assert relative_error(codec.decode_frames(codes), expected) < 1e-5


def test_the_pocket_voice_equals_the_official_codec_with_its_weights(tmp_path):
    config, tensors = read_codec(POCKET / "codec.safetensors")
    stored = tmp_path / "pocket.pth"
    torch.save({k: v.float() for k, v in unfold_weight_norm(tensors).items()}, stored)
    voices = sorted((POCKET / "voices").glob("*.json"))
    codes = [json.loads(voice.read_text("utf-8"))["codes"] for voice in voices]
    lengths = [3 * config.sample_rate]
    theirs = official(
        tmp_path, sizes=config.to_dict(), load=str(stored), codes=codes, recordings=lengths
    )
    codec = load_codec(POCKET)
    assert torch.equal(codec.encode_reference(recording(lengths[0])), theirs["encoded"][0])
    results = zip(codes, theirs["decoded"], theirs["reencoded"], strict=True)
    for spoken, samples, reencoded in results:
        given = torch.tensor(spoken)[None]
        assert relative_error(codec.decode_frames(given), samples) < 1e-5
        assert torch.equal(codec.encode_reference(samples), reencoded)


@pytest.mark.slow
def test_the_full_size_codec_equals_the_official_one(tmp_path):
    """391 million parameters, through the official ``codec.pth``. Needs 4 GB and some minutes."""
    file = tmp_path / "codec.pth"
    frames, lengths = [24, 140], [24 * 2048, 5000, 140 * 2048]
    theirs = official(tmp_path, save=str(file), recordings=lengths, frames=frames)
    codec = load_codec(file)
    for num_samples, expected in zip(lengths, theirs["encoded"], strict=True):
        assert torch.equal(codec.encode_reference(recording(num_samples)), expected)
    for num_frames, expected in zip(frames, theirs["decoded"], strict=True):
        codes = codes_of(codec.codebook_sizes, num_frames)
        assert relative_error(codec.decode_frames(codes), expected) < 1e-5
    codes = codes_of(codec.codebook_sizes, 24)
    whole = codec.decode_frames(codes)
    for chunking in ([1] * 24, RAMP, [19, 5]):
        assert (streamed(codec, codes, chunking) - whole).abs().max() < 1e-6
