from __future__ import annotations

import numpy as np
import pytest

from backend.audio.encoders import encode_whole, make_encoder
from backend.audio.formats import OUTPUT_FORMATS
from backend.core.errors import UnsupportedFormatError

RATE_HZ = 44_100
OGG_PAGES_KBPS = 28 * 8 / 20  # a stream has a page of its own for each packet of 20 ms
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE_HZ).astype(np.float32)


@pytest.mark.parametrize(
    ("format_name", "bitrate_kbps"),
    [("mp3", 64), ("mp3", 192), ("opus", 24), ("opus", 48), ("aac", 64), ("aac", 192)],
)
def test_files_have_the_bit_rate_that_was_asked_for(format_name: str, bitrate_kbps: int):
    whole = encode_whole(format_name, NOISE, RATE_HZ, bitrate_kbps=bitrate_kbps)
    with make_encoder(format_name, RATE_HZ, bitrate_kbps=bitrate_kbps) as encoder:
        streamed = encoder.header() + encoder.feed(NOISE) + encoder.finish()
    assert len(whole) * 8 / 1000 / 4 == pytest.approx(bitrate_kbps, rel=0.15)
    pages_kbps = OGG_PAGES_KBPS if format_name == "opus" else 0
    found_kbps = len(streamed) * 8 / 1000 / 4 - pages_kbps
    assert found_kbps == pytest.approx(bitrate_kbps, rel=0.15)


@pytest.mark.parametrize("format_name", ["wav", "pcm", "flac"])
def test_formats_without_a_bit_rate_refuse_one(format_name: str):
    with pytest.raises(UnsupportedFormatError, match="no bit rate"):
        make_encoder(format_name, RATE_HZ, bitrate_kbps=64)


def test_a_bit_rate_out_of_range_is_refused_with_the_range():
    with pytest.raises(UnsupportedFormatError, match="8 to 320"):
        encode_whole("mp3", NOISE, RATE_HZ, bitrate_kbps=321)
    with pytest.raises(UnsupportedFormatError, match="6 to 256"):
        make_encoder("opus", RATE_HZ, bitrate_kbps=-1000)


def test_lossy_formats_and_no_others_have_bit_rates():
    assert all((row.bitrates_kbps is None) == row.is_lossless for row in OUTPUT_FORMATS.values())
