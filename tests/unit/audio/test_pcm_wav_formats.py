from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
import soundfile as sf

from backend.audio.formats import AI_GENERATED_COMMENT, OUTPUT_FORMATS, output_format
from backend.audio.pcm import from_s16le_bytes, to_s16, to_s16le_bytes
from backend.audio.wav import UNKNOWN_SIZE, wav_header, whole_wav
from backend.core.errors import UnsupportedFormatError
from tests.unit.audio.media import RATE_HZ, tone


def test_full_scale_maps_to_the_symmetric_range() -> None:
    samples = np.array([1.0, -1.0, 0.0, 0.5 / 32767, 1.5 / 32767, -0.6 / 32767], np.float32)
    np.testing.assert_array_equal(to_s16(samples), [32767, -32767, 0, 0, 2, -1])
    assert to_s16(samples).dtype == np.int16


def test_what_is_beyond_full_scale_is_clamped() -> None:
    samples = np.array([1.001, -7.0, np.inf, -np.inf, 1e30], np.float32)
    np.testing.assert_array_equal(to_s16(samples), [32767, -32767, 32767, -32767, 32767])


def test_a_sample_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_s16(np.array([0.0, np.nan], np.float32))


def test_pcm_bytes_are_little_endian_and_come_back() -> None:
    assert to_s16le_bytes(np.array([1.0, 1 / 32767], np.float32)) == b"\xff\x7f\x01\x00"
    every = np.arange(-32767, 32768).astype("<i2").tobytes()
    assert to_s16le_bytes(from_s16le_bytes(every)) == every
    assert from_s16le_bytes(every).dtype == np.float32


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        from_s16le_bytes(b"\x00\x01\x02")


def test_a_whole_wav_is_read_by_two_other_programs() -> None:
    samples = tone()
    data = whole_wav(samples, RATE_HZ)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        assert file.readframes(file.getnframes()) == to_s16le_bytes(samples)
    with sf.SoundFile(io.BytesIO(data)) as file:
        assert file.frames == samples.size
        assert file.comment == AI_GENERATED_COMMENT


def test_the_sizes_of_a_whole_wav_add_up() -> None:
    data = whole_wav(tone(), RATE_HZ)
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    at = data.index(b"data")
    assert struct.unpack_from("<I", data, at + 4)[0] == len(data) - at - 8
    assert at % 2 == 0


def test_a_streamed_header_leaves_both_sizes_open_and_differs_in_nothing_else() -> None:
    open_header = wav_header(RATE_HZ, num_samples=None)
    closed_header = wav_header(RATE_HZ, num_samples=1000)
    assert struct.unpack_from("<I", open_header, 4)[0] == UNKNOWN_SIZE
    assert struct.unpack_from("<I", open_header, len(open_header) - 4)[0] == UNKNOWN_SIZE
    assert open_header[8:-4] == closed_header[8:-4]


def test_a_wav_beyond_four_gibibytes_is_refused() -> None:
    with pytest.raises(ValueError, match="4 GiB"):
        wav_header(RATE_HZ, num_samples=2**31)


def test_an_empty_wav_is_a_file() -> None:
    with wave.open(io.BytesIO(whole_wav(np.zeros(0, np.float32), RATE_HZ))) as file:
        assert file.getnframes() == 0


def test_format_names_are_found_whatever_their_case() -> None:
    assert output_format(" MP3 ") is OUTPUT_FORMATS["mp3"]


def test_the_table_agrees_with_itself() -> None:
    for name, row in OUTPUT_FORMATS.items():
        assert row.name == name == name.lower()
        assert row.media_type.startswith("audio/")
        assert row.extension.isalnum()
        assert list(row.sample_rates_hz) == sorted(row.sample_rates_hz)
        assert row.description
    extensions = [row.extension for row in OUTPUT_FORMATS.values()]
    assert len(set(extensions)) == len(extensions)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        OUTPUT_FORMATS["wav"] = OUTPUT_FORMATS["mp3"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "rate_hz", "expected_hz"),
    [
        ("opus", 44_100, 48_000),
        ("opus", 24_000, 24_000),
        ("opus", 22_050, 24_000),
        ("opus", 96_000, 48_000),
        ("mp3", 44_100, 44_100),
        ("mp3", 88_200, 48_000),
        ("wav", 44_056, 44_056),
        ("flac", 96_000, 96_000),
    ],
)
def test_the_output_rate_loses_no_band_where_the_codec_allows(
    name: str, rate_hz: int, expected_hz: int
) -> None:
    assert OUTPUT_FORMATS[name].output_rate_hz(rate_hz) == expected_hz


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedFormatError, match="wav, pcm, mp3, flac, opus, aac"):
        output_format("vinyl")
