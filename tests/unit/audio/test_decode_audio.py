from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from backend.audio.wav import wav_header
from backend.core.errors import InvalidAudioError
from tests.unit.audio.media import (
    RATE_HZ,
    decoded,
    ffmpeg_bytes,
    mp3_bytes,
    refusal,
    sndfile_bytes,
    snr_db,
    tone,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("container", "subtype", "min_snr_db"),
    [
        ("WAV", "PCM_16", 75),
        ("WAV", "PCM_24", 120),
        ("WAV", "PCM_32", 120),
        ("WAV", "PCM_U8", 30),
        ("WAV", "FLOAT", 140),
        ("WAV", "DOUBLE", 140),
        ("WAV", "ULAW", 25),
        ("WAVEX", "PCM_16", 75),
        ("RF64", "PCM_16", 75),
        ("AIFF", "PCM_16", 75),
        ("AIFF", "FLOAT", 140),
        ("FLAC", "PCM_16", 75),
        ("FLAC", "PCM_24", 120),
        ("FLAC", "PCM_S8", 30),
    ],
)
def test_uncompressed_and_lossless_files_give_their_samples_back(
    container: str, subtype: str, min_snr_db: float
) -> None:
    samples = tone()
    recording = decoded(sndfile_bytes(samples, container=container, subtype=subtype))
    assert recording.samples.dtype == np.float32
    assert recording.samples.shape == samples.shape
    assert recording.sample_rate == RATE_HZ
    assert snr_db(samples, recording.samples) > min_snr_db


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz", "padding_s"),
    [
        ("ipod", "aac", 44_100, 0.08),
        ("mp4", "aac", 44_100, 0.08),
        ("mov", "alac", 44_100, 0.02),
        ("mov", "pcm_s16le", 44_100, 0.02),
        ("matroska", "pcm_s16le", 44_100, 0.03),
        ("mp4", "libopus", 48_000, 0.02),
        ("mp4", "libmp3lame", 44_100, 0.06),
        ("adts", "aac", 44_100, 0.08),
        ("ogg", "libopus", 48_000, 0.02),
        ("ogg", "flac", 44_100, 0.02),
        ("webm", "libopus", 48_000, 0.02),
        ("matroska", "aac", 44_100, 0.08),
        ("mp3", "libmp3lame", 44_100, 0.02),
        ("mp3", "libmp3lame", 22_050, 0.02),
        ("flac", "flac", 44_100, 0.02),
    ],
)
def test_compressed_files_decode_to_their_length_and_sound(
    container: str, codec: str, rate_hz: int, padding_s: float
) -> None:
    samples = tone(rate_hz=rate_hz)
    sample_format = {"libopus": "flt", "flac": "s16", "alac": "s16p", "pcm_s16le": "s16"}.get(
        codec, "fltp"
    )
    data = ffmpeg_bytes(
        samples, rate_hz, container=container, codec=codec, sample_format=sample_format
    )
    recording = decoded(data)
    assert recording.source.sample_rate == rate_hz
    assert recording.duration_s == pytest.approx(1.5, abs=padding_s)
    middle = recording.samples[RATE_HZ // 2 : RATE_HZ]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size)))
    assert np.argmax(spectrum) * RATE_HZ / middle.size == pytest.approx(220, abs=3)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(np.sqrt(np.mean(samples**2)), rel=0.1)


def test_vorbis_decodes_to_its_length() -> None:
    recording = decoded(sndfile_bytes(tone(), container="OGG", subtype="VORBIS"))
    assert recording.source.codec == "vorbis"
    assert recording.samples.size == tone().size


def test_fragmented_mp4_and_mp4_with_its_index_first_are_read(tmp_path: Path) -> None:
    samples = tone()
    fragmented = ffmpeg_bytes(
        samples,
        container="mp4",
        codec="aac",
        options={"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"},
    )
    index_first = ffmpeg_bytes(
        samples,
        container="mp4",
        codec="aac",
        options={"movflags": "faststart"},
        path=tmp_path / "first.mp4",
    )
    assert index_first.index(b"moov") < index_first.index(b"mdat")
    for data in (fragmented, index_first):
        assert decoded(data).duration_s == pytest.approx(1.5, abs=0.08)


def test_a_browsers_recording_with_open_lengths_is_read() -> None:
    data = ffmpeg_bytes(
        tone(rate_hz=48_000),
        48_000,
        container="webm",
        codec="libopus",
        sample_format="flt",
        options={"live": "1"},
    )
    assert decoded(data).duration_s == pytest.approx(1.5, abs=0.03)


def test_vbr_mp3_without_a_length_frame_is_decoded_to_its_end() -> None:
    quiet_then_loud = np.concatenate([tone(1.0, level=0.01), tone(3.0)])
    data = mp3_bytes(quiet_then_loud, xing=False, vbr=True)
    assert b"Xing" not in data
    assert b"Info" not in data
    assert decoded(data).duration_s == pytest.approx(4.0, abs=0.08)


def test_tags_around_an_mp3_do_not_disturb() -> None:
    picture = b"\xff\xfb\x90\x00" + bytes(range(256)) * 8  # looks like a frame header
    id3v2 = b"ID3\x04\x00\x00" + bytes([0, 0, len(picture) >> 7, len(picture) & 127]) + picture
    id3v1 = b"TAG" + b"\xff\xfb\x90\xc4" * 31 + b"\x00"
    data = id3v2 + mp3_bytes(tone(), xing=True) + id3v1
    assert decoded(data).samples.size == pytest.approx(tone().size, abs=2)


def test_channels_are_averaged() -> None:
    left, right = tone(f0_hz=200), tone(f0_hz=300)
    data = sndfile_bytes(np.stack([left, right], axis=1), container="WAV", subtype="FLOAT")
    recording = decoded(data)
    assert recording.source.num_channels == 2
    np.testing.assert_allclose(recording.samples, (left + right) / 2, atol=1e-6)


def test_planar_stereo_of_a_compressed_file_is_averaged() -> None:
    left = tone(f0_hz=200)
    stereo = np.stack([left, -left], axis=1)
    stereo[:, 1] *= 0.5
    recording = decoded(sndfile_bytes(stereo, container="FLAC", subtype="PCM_16"))
    assert recording.source.num_channels == 2
    np.testing.assert_allclose(recording.samples, left / 4, atol=1e-4)


@pytest.mark.parametrize("from_hz", [8_000, 16_000, 22_050, 48_000, 96_000, 192_000])
def test_other_sample_rates_are_resampled_to_the_same_sound(from_hz: int) -> None:
    data = sndfile_bytes(tone(rate_hz=from_hz), from_hz, container="WAV", subtype="PCM_24")
    recording = decoded(data)
    assert recording.source.sample_rate == from_hz
    assert abs(recording.samples.size - 1.5 * RATE_HZ) <= 1
    clean = 0.3 * np.sin(2 * np.pi * 220 * np.arange(recording.samples.size) / RATE_HZ)
    projected = np.dot(recording.samples, clean) / np.dot(clean, clean)
    assert projected == pytest.approx(1 / 1.4, rel=0.01)


def test_a_wav_of_a_recorder_that_could_not_seek_back_is_read_to_its_end() -> None:
    pcm = np.rint(tone() * 32767).astype("<i2").tobytes()
    recording = decoded(wav_header(RATE_HZ, num_samples=None) + pcm)
    assert recording.samples.size == tone().size


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 bytes"),
        (b"Once upon a time there was a server.\n" * 50, "looks like text"),
        ("Es war einmal ein Überfall: „nein“.".encode(), "looks like text"),
        (b'{"audio": null}', "looks like text"),
        ("Once upon a time".encode("utf-16"), "looks like text"),
        (("Once upon a time, long" * 300).encode("utf-16"), "looks like text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "PNG"),
        (b"%PDF-1.7\n" + bytes(200), "PDF"),
        (b"PK\x03\x04" + bytes(200), "ZIP"),
        (bytes(5000), "not audio"),
        (np.random.default_rng(3).bytes(5000), "not audio"),
        (b"RIFF\x10\x00\x00\x00AVI LIST" + bytes(100), "not audio"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "looks like text"),
    ],
)
def test_what_is_not_a_recording_is_refused_with_its_kind_and_a_way_out(
    data: bytes, what: str
) -> None:
    message = refusal(data)
    assert what in message
    assert "upload WAV" in message


def _container_cases() -> dict[str, bytes]:
    samples = tone()
    return {
        "wav": sndfile_bytes(samples, container="WAV", subtype="PCM_16"),
        "rf64": sndfile_bytes(samples, container="RF64", subtype="PCM_16"),
        "aiff": sndfile_bytes(samples, container="AIFF", subtype="PCM_16"),
        "flac": sndfile_bytes(samples, container="FLAC", subtype="PCM_16"),
        "flac of open length": ffmpeg_bytes(
            samples, container="flac", codec="flac", sample_format="s16"
        ),
        "ogg": sndfile_bytes(samples, container="OGG", subtype="VORBIS"),
        "mp3 with Xing": mp3_bytes(samples, xing=True),
        "mp3 without Xing": mp3_bytes(samples, xing=False),
        "vbr mp3 with Xing": mp3_bytes(samples, xing=True, vbr=True),
        "aac": ffmpeg_bytes(samples, container="adts", codec="aac"),
        "m4a": ffmpeg_bytes(samples, container="ipod", codec="aac"),
        "webm": ffmpeg_bytes(
            tone(rate_hz=48_000), 48_000, container="webm", codec="libopus", sample_format="flt"
        ),
    }


@pytest.mark.parametrize(("name", "data"), _container_cases().items())
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_cut_file_is_refused_as_truncated(name: str, data: bytes, kept: float) -> None:
    decoded(data)  # whole, it is fine
    message = refusal(data[: int(len(data) * kept)])
    assert "truncated" in message, name
    assert "complete file" in message


def test_an_mp3_cut_between_two_frames_is_refused_when_its_length_was_stated() -> None:
    data = mp3_bytes(tone(3.0), xing=True)
    frame_starts = [found.start() for found in re.finditer(rb"\xff\xfb", data)]
    cut = data[: frame_starts[len(frame_starts) // 2]]
    assert "promises" in refusal(cut)


def test_an_mp3_cut_between_two_frames_without_a_stated_length_is_taken_as_it_is() -> None:
    data = mp3_bytes(tone(3.0), xing=False)
    frame_starts = [found.start() for found in re.finditer(rb"\xff\xfb", data)]
    assert decoded(data[: frame_starts[80]]).duration_s == pytest.approx(80 * 1152 / RATE_HZ)


def test_an_mp3_cut_inside_the_header_of_its_last_frame_is_refused() -> None:
    data = mp3_bytes(tone(3.0), xing=False)
    frame_starts = [found.start() for found in re.finditer(rb"\xff\xfb", data)]
    for num_bytes in (1, 2, 3):
        assert "truncated" in refusal(data[: frame_starts[80] + num_bytes])


def test_a_few_missing_samples_of_a_wav_are_forgiven() -> None:
    data = sndfile_bytes(tone(), container="WAV", subtype="PCM_16")
    assert decoded(data[:-100]).samples.size == tone().size - 50


def test_garbage_inside_a_flac_is_refused() -> None:
    data = bytearray(sndfile_bytes(tone(), container="FLAC", subtype="PCM_16"))
    data[len(data) // 2 : len(data) // 2 + 3000] = np.random.default_rng(1).bytes(3000)
    assert "damaged" in refusal(bytes(data))


@pytest.mark.parametrize("size", [3, 11, 12, 20, 43, 44])
def test_a_file_that_ends_in_its_header_is_refused(size: int) -> None:
    for name, data in _container_cases().items():
        with pytest.raises(InvalidAudioError):
            decoded(data[:size])
        assert name


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(11)
    for data in _container_cases().values():
        for _ in range(12):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 20):
                damaged[at] = rng.integers(0, 256)
            try:
                recording = decoded(bytes(damaged))
            except InvalidAudioError:
                continue
            assert np.isfinite(recording.samples).all()


def test_the_same_bytes_give_the_same_samples() -> None:
    data = mp3_bytes(tone(), xing=True)
    np.testing.assert_array_equal(decoded(data).samples, decoded(data).samples)
