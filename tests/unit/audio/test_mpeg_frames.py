from __future__ import annotations

import pytest

from backend.audio.mpeg_frames import adts_header, mp3_header, walk_frames
from tests.unit.audio.media import ffmpeg_bytes, mp3_bytes, tone


@pytest.mark.parametrize(
    ("header", "length_bytes", "num_samples", "sample_rate"),
    [
        ("fffb9000", 417, 1152, 44_100),  # MPEG-1 layer III, 128 kbit/s
        ("fffb9200", 418, 1152, 44_100),  # with padding
        ("fffbe400", 960, 1152, 48_000),  # 320 kbit/s
        ("fff380c0", 208, 576, 22_050),  # MPEG-2 layer III, 64 kbit/s
        ("ffe340c0", 208, 576, 11_025),  # MPEG-2.5, 32 kbit/s
        ("fffd8000", 417, 1152, 44_100),  # MPEG-1 layer II, 128 kbit/s
        ("ffff4000", 136, 384, 44_100),  # MPEG-1 layer I, 128 kbit/s: 32-bit slots
    ],
)
def test_mpeg_headers_are_read(
    header: str, length_bytes: int, num_samples: int, sample_rate: int
) -> None:
    found = mp3_header(bytes.fromhex(header), 0)
    assert found is not None
    assert (found.length_bytes, found.num_samples, found.sample_rate) == (
        length_bytes,
        num_samples,
        sample_rate,
    )


@pytest.mark.parametrize(
    "header",
    ["fffb", "00000000", "ffeb9000", "fff99000", "fffb0000", "fffbf000", "fffb9c00", "ff0b9000"],
)
def test_reserved_free_and_short_headers_are_none(header: str) -> None:
    assert mp3_header(bytes.fromhex(header), 0) is None


def test_every_frame_of_a_file_is_counted() -> None:
    data = mp3_bytes(tone(2.0), xing=True)
    start = data.index(b"\xff\xfb")
    walk = walk_frames(data, start, mp3_header)
    assert walk is not None
    assert walk.promised_frames == walk.num_frames - 1  # the length frame holds no sound
    assert walk.end == len(data)
    assert not walk.is_cut
    assert walk.duration_s == pytest.approx(walk.num_frames * 1152 / 44_100)


def test_adts_frames_are_counted() -> None:
    data = ffmpeg_bytes(tone(2.0), container="adts", codec="aac")
    walk = walk_frames(data, 0, adts_header)
    assert walk is not None
    assert walk.end == len(data)
    assert walk.duration_s == pytest.approx(2.0, abs=0.1)
    assert walk.promised_frames is None


def test_a_cut_is_seen_at_every_byte_of_the_last_frame() -> None:
    data = mp3_bytes(tone(0.5), xing=False)
    start = data.index(b"\xff\xfb")
    last = max(at for at in range(len(data)) if mp3_header(data, at) and at >= len(data) - 418)
    for end in range(last + 1, len(data)):
        walk = walk_frames(data[:end], start, mp3_header)
        assert walk is not None
        assert walk.is_cut, end
        assert walk.end == last


def test_garbage_between_and_behind_frames_is_stepped_over() -> None:
    data = mp3_bytes(tone(0.5), xing=False)
    start = data.index(b"\xff\xfb")
    whole = walk_frames(data, start, mp3_header)
    assert whole is not None
    middle = start
    for _ in range(5):
        header = mp3_header(data, middle)
        assert header is not None
        middle += header.length_bytes
    dirty = data[:middle] + b"junk" * 50 + data[middle:] + bytes(500)
    walk = walk_frames(dirty, start, mp3_header)
    assert walk is not None
    assert walk.num_frames == whole.num_frames
    assert not walk.is_cut
    assert walk.end == len(data) + 200


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xfb\x90\x00" + bytes(1000), b"\xff" * 2000])
def test_what_is_no_stream_has_no_frames(data: bytes) -> None:
    assert walk_frames(data, 0, mp3_header) is None
