from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from backend.audio.wav import wav_header
from backend.core.errors import AudioTooLongError, InvalidAudioError
from tests.unit.audio.media import RATE_HZ, decoded, ffmpeg_bytes, refusal, sndfile_bytes, tone

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def test_a_wav_header_of_eight_hours_over_a_second_of_sound_is_refused_as_truncated() -> None:
    pcm = np.rint(tone() * 32767).astype("<i2").tobytes()
    data = wav_header(RATE_HZ, num_samples=8 * 3600 * RATE_HZ) + pcm
    with pytest.raises(InvalidAudioError, match="truncated") as caught:
        decoded(data)
    assert "28800.0 s" in str(caught.value)


def test_a_flac_header_of_eight_hours_is_refused_at_once_and_names_the_limit() -> None:
    data = bytearray(sndfile_bytes(tone(), container="FLAC", subtype="PCM_16"))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | 8 * 3600 * RATE_HZ
    data[18:26] = packed.to_bytes(8, "big")
    with pytest.raises(AudioTooLongError, match="28800 s; at most 30 s"):
        decoded(bytes(data))


def test_a_small_file_that_unfolds_to_hours_stops_at_the_limit() -> None:
    silence = np.zeros(600 * RATE_HZ, np.int16)
    data = sndfile_bytes(silence, container="FLAC", subtype="PCM_16")  # type: ignore[arg-type]
    data = data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]  # length left open
    assert len(data) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(AudioTooLongError, match="at most 5 s"):
            decoded(data, max_s=5.0)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 5 * RATE_HZ * 4


@pytest.mark.parametrize(("table", "count_at"), [(b"stsz", 12), (b"trun", 8)])
def test_an_mp4_index_that_lists_billions_of_packets_is_refused_unread(
    table: bytes, count_at: int
) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"} if table == b"trun" else {}
    data = bytearray(ffmpeg_bytes(tone(), container="mp4", codec="aac", options=options))
    at = data.index(table)
    for num_packets in (2**20, 2**26, 2**32 - 1):
        data[at + count_at : at + count_at + 4] = num_packets.to_bytes(4, "big")
        assert "index is damaged" in refusal(bytes(data))


def test_an_mp4_with_a_compressed_index_is_refused() -> None:
    data = ffmpeg_bytes(tone(), container="mp4", codec="aac").replace(b"trak", b"cmov")
    assert "compressed index" in refusal(data)


def test_a_codec_that_nobody_records_with_is_refused_by_name() -> None:
    data = ffmpeg_bytes(tone(), container="matroska", codec="ac3")
    message = refusal(data)
    assert "codec ac3" in message
    assert "export it as AAC" in message


@pytest.mark.parametrize("max_s", [1.4, 1.5])
def test_the_limit_itself_is_allowed(max_s: float) -> None:
    data = sndfile_bytes(tone(max_s), container="WAV", subtype="PCM_16")
    assert decoded(data, max_s=max_s).duration_s == pytest.approx(max_s)
    with pytest.raises(AudioTooLongError):
        decoded(data, max_s=max_s - 0.01)


def test_too_short_a_recording_is_refused_with_both_lengths() -> None:
    message = refusal(sndfile_bytes(tone(0.2), container="WAV", subtype="PCM_16"))
    assert "too short (0.2 s)" in message
    assert "at least 1 s" in message


def test_a_file_without_samples_is_refused() -> None:
    empty = np.zeros(0, np.float32)
    for container in ("WAV", "AIFF"):
        data = sndfile_bytes(empty, container=container, subtype="PCM_16")
        assert "no sound (0 samples)" in refusal(data)


@pytest.mark.parametrize("level", [0.0, 0.5, 1e-4])
def test_silence_a_constant_and_a_whisper_of_noise_are_refused_as_silent(level: float) -> None:
    samples = np.full(2 * RATE_HZ, level, np.float32)
    assert "silent" in refusal(sndfile_bytes(samples, container="WAV", subtype="PCM_16"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(bad: float) -> None:
    samples = tone()
    samples[1234] = bad
    message = refusal(sndfile_bytes(samples, container="WAV", subtype="FLOAT"))
    assert "NaN or infinite" in message


def test_float_samples_in_integer_range_are_refused() -> None:
    data = sndfile_bytes(tone() * 32767, container="WAV", subtype="FLOAT")
    assert "normalize" in refusal(data)


@pytest.mark.parametrize("rate_hz", [1, 1_000, 4_000_000])
def test_absurd_sample_rates_are_refused(rate_hz: int) -> None:
    data = bytearray(sndfile_bytes(tone(), container="WAV", subtype="PCM_16"))
    data[24:28] = rate_hz.to_bytes(4, "little")
    with pytest.raises(InvalidAudioError, match=r"sample rate|too long|lasts"):
        decoded(bytes(data), max_s=1e6)


def crowd(num_channels: int) -> NDArray[np.float32]:
    return np.tile(tone()[:, None], (1, num_channels))


def test_seven_channels_are_averaged() -> None:
    for container in ("WAV", "FLAC"):
        data = sndfile_bytes(crowd(7), container=container, subtype="PCM_16")
        np.testing.assert_allclose(decoded(data).samples, tone(), atol=1e-4)


@pytest.mark.parametrize(
    ("container", "num_channels"), [("WAV", 8), ("WAV", 64), ("WAV", 1000), ("FLAC", 8)]
)
def test_too_many_channels_are_refused(container: str, num_channels: int) -> None:
    data = sndfile_bytes(crowd(num_channels), container=container, subtype="PCM_16")
    message = refusal(data)
    assert f"{num_channels} channels" in message
    assert "export it in mono" in message


def test_seven_and_one_channels_of_aac_are_refused_and_do_not_end_the_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "surround.m4a"
    with av.open(str(path), "w", format="ipod") as out:
        stream = out.add_stream("aac", rate=RATE_HZ, layout="7.1")
        planar = av.AudioResampler(format="fltp", layout="7.1", rate=RATE_HZ)
        for at in range(0, 50_000, 1024):
            frame = av.AudioFrame.from_ndarray(crowd(8)[None, :1024].reshape(1, -1), "flt", "7.1")
            frame.sample_rate, frame.pts = RATE_HZ, at
            for part in planar.resample(frame):
                out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    assert "8 channels" in refusal(path.read_bytes())


def test_tags_that_are_not_utf_8_do_not_disturb() -> None:
    data = ffmpeg_bytes(tone(), container="flac", codec="flac", sample_format="s16")
    assert b"Lavf" in data
    assert decoded(data.replace(b"Lavf", b"L\xe4vf")).samples.size == tone().size


def test_a_codec_that_nobody_knows_is_refused() -> None:
    data = ffmpeg_bytes(tone(), container="matroska", codec="aac").replace(b"A_AAC", b"A_XYZ")
    assert "codec of unknown name" in refusal(data)


def test_an_aiff_with_an_absurd_rate_is_refused() -> None:
    data = bytearray(sndfile_bytes(tone(), container="AIFF", subtype="PCM_16"))
    at = data.index(b"COMM") + 16
    data[at : at + 2] = b"\x7f\xff"
    assert "AIFF" in refusal(bytes(data)) or "sample rate" in refusal(bytes(data))


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    assert "no sound track" in refusal(path.read_bytes())
