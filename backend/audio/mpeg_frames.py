"""Walk the frames of an MP3 or ADTS stream without decoding them.

Both are bare sequences of frames with no index, so this is the only way to know how much sound is
there, whether the last frame is whole, and where tags and garbage begin.

Source:
    Frame headers: ISO/IEC 11172-3 (2.4.2.3), 13818-3 and 13818-7 (6.2). The Xing frame is a
    convention without a standard; its layout is described in many places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_V1_KBITS = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_V2_KBITS = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_V1_RATES_HZ = (44_100, 48_000, 32_000)
_RATE_DIVISOR = {3: 1, 2: 2, 0: 4}  # version bits: 3 = MPEG-1, 2 = MPEG-2, 0 = MPEG-2.5
_ADTS_RATES_HZ = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)
_ADTS_BLOCK_SAMPLES = 1024

_MAX_RESYNC_BYTES = 65_536
_HEADER_BYTES = 7  # of ADTS; MPEG audio needs 4
_XING_HAS_FRAMES = 1


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """One frame.

    Attributes:
        length_bytes: Header included.
        num_samples: Per channel.
        sample_rate: In Hz.
        side_bytes: MP3 only: between the frame's start and its main data, where a Xing tag stands.
    """

    length_bytes: int
    num_samples: int
    sample_rate: int
    side_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FrameWalk:
    """All frames of a file.

    Attributes:
        start: Offset of the first frame.
        end: Offset behind the last whole frame.
        num_frames: Whole frames, a Xing frame included.
        duration_s: Of the whole frames.
        is_cut: The file ends inside a frame.
        promised_frames: What the Xing frame says, without itself, or None.
    """

    start: int
    end: int
    num_frames: int
    duration_s: float
    is_cut: bool
    promised_frames: int | None


def mp3_header(data: bytes, at: int) -> FrameHeader | None:
    """Read the MPEG audio frame header at ``at``; None when there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bit_rate_idx, rate_idx = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    # Index 0 is "free format": the length is then nowhere. No encoder in use writes it.
    if version == 1 or layer == 4 or rate_idx == 3 or bit_rate_idx in (0, 15):
        return None
    is_v1 = version == 3
    bit_rate = 1000 * (_V1_KBITS if is_v1 else _V2_KBITS)[layer][bit_rate_idx - 1]
    sample_rate = _V1_RATES_HZ[rate_idx] // _RATE_DIVISOR[version]
    padding = data[at + 2] >> 1 & 1
    if layer == 1:
        return FrameHeader(4 * (12 * bit_rate // sample_rate + padding), 384, sample_rate)
    num_samples = 1152 if layer == 2 or is_v1 else 576
    is_mono = data[at + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_v1 else (9 if is_mono else 17)
    length = num_samples // 8 * bit_rate // sample_rate + padding
    return FrameHeader(length, num_samples, sample_rate, 4 + side)


def adts_header(data: bytes, at: int) -> FrameHeader | None:
    """Read the ADTS frame header at ``at``; None when there is none."""
    if at + _HEADER_BYTES > len(data) or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return None
    rate_idx = data[at + 2] >> 2 & 15
    length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    if rate_idx >= len(_ADTS_RATES_HZ) or length < _HEADER_BYTES:
        return None
    num_blocks = (data[at + 6] & 3) + 1
    return FrameHeader(length, num_blocks * _ADTS_BLOCK_SAMPLES, _ADTS_RATES_HZ[rate_idx])


def walk_frames(
    data: bytes, start: int, header_at: Callable[[bytes, int], FrameHeader | None]
) -> FrameWalk | None:
    """Follow the frames from ``start`` to the end of the file.

    Args:
        data: The file.
        start: Where to look for the first frame; up to 64 KiB of padding may stand before it.
        header_at: ``mp3_header`` or ``adts_header``.

    Returns:
        What was found, or None when there are no frames. Garbage between frames is stepped over;
        behind the last frame it is left out (``end``).
    """
    opening = header_at(data, start)
    following = start + opening.length_bytes if opening else 0
    is_at_start = opening and (following >= len(data) or header_at(data, following))
    first = start if is_at_start else _find_frame(data, start, header_at)
    if first is None:
        return None
    num_frames, duration_s, is_cut = 0, 0.0, False
    end = first
    at: int | None = first
    while at is not None:
        header = header_at(data, at)
        if header is None:
            at = _find_frame(data, at, header_at)
            continue
        if at + header.length_bytes > len(data):
            is_cut = True
            break
        num_frames += 1
        duration_s += header.num_samples / header.sample_rate
        at = end = at + header.length_bytes
    # A rest that is shorter than a header and begins like one is a cut header.
    is_cut = is_cut or (0 < len(data) - end < _HEADER_BYTES and data[end] == 0xFF)
    promised = _xing_frames(data, first, header_at(data, first))
    return FrameWalk(first, end, num_frames, duration_s, is_cut, promised)


def _find_frame(
    data: bytes, start: int, header_at: Callable[[bytes, int], FrameHeader | None]
) -> int | None:
    """Find the next header that is followed by another one of the same rate.

    One alone proves nothing here: tags with pictures hold bytes that look like a header.
    """
    stop = min(len(data), start + _MAX_RESYNC_BYTES)
    at = data.find(b"\xff", start, stop)
    while at >= 0:
        header = header_at(data, at)
        if header is not None:
            following = header_at(data, at + header.length_bytes)
            if following is not None and following.sample_rate == header.sample_rate:
                return at
        at = data.find(b"\xff", at + 1, stop)
    return None


def _xing_frames(data: bytes, first: int, header: FrameHeader | None) -> int | None:
    if header is None or not header.side_bytes:
        return None
    at = first + header.side_bytes
    if data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 12:
        return None
    if not int.from_bytes(data[at + 4 : at + 8], "big") & _XING_HAS_FRAMES:
        return None
    return int.from_bytes(data[at + 8 : at + 12], "big")
