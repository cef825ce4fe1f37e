"""Check, before anything is decoded, that an upload is whole and how long it claims to be.

Decoders hide a cut: most of them play what is there and say nothing. So the container's own
bookkeeping is compared with the bytes that came:

==========  ======================================  ==========================================
container   what it promises                        truncated when
==========  ======================================  ==========================================
WAV, AIFF   size of the data chunk                  more than 0.1 s of it are missing
FLAC        total samples, unless they are open     one sample less can be decoded
                                                    (``decode.py`` compares)
MP3, AAC    length of every frame; MP3 with a Xing  the last frame is cut, or more than one
            frame: number of frames                 frame is missing
OGG         length of every page                    the last page is cut
M4A/MP4     length of every box                     the last box is cut, or there is no index
WebM        length of the segment, unless open      bytes are missing
==========  ======================================  ==========================================

A file cut exactly between two frames, without a Xing frame, promises no more than it holds and
is taken as it is. Open lengths (a recorder that could not seek back) are no promise.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from backend.audio.mpeg_frames import adts_header, mp3_header, walk_frames
from backend.audio.sniff import InputKind, Sniffed, not_audio
from backend.core.errors import InvalidAudioError

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE_S = 0.1
"""Sound that may be missing from what a header promises; writers miscount by a block."""

_OPEN_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
_MAX_HEADER_BYTES = 4096  # an open size less the header, as some writers put it
_WAV_PCM_TAGS = frozenset({1, 3, 0xFFFE})
_OGG_HEADER_BYTES = 27
_UNKNOWN_EBML_SIZE = -1
_EBML_SEGMENT = b"\x18\x53\x80\x67"


@dataclass(frozen=True, slots=True)
class Promise:
    """What a container says about itself.

    Attributes:
        duration_s: Exact length of the sound, or None when the container does not state it.
        start: Offset where the decoder begins.
        end: Offset where it stops; tags and garbage behind are left out.
        tolerance_s: How much less than ``duration_s`` may be decoded.
    """

    duration_s: float | None
    start: int
    end: int
    tolerance_s: float = TOLERANCE_S


def read_promise(data: bytes, sniffed: Sniffed) -> Promise:
    """Read the container's bookkeeping.

    Raises:
        InvalidAudioError: The file ends before the container says it does, or the container is
            not what its first bytes claim.
    """
    start = sniffed.start
    match sniffed.kind:
        case InputKind.WAV:
            return _wav(data)
        case InputKind.AIFF:
            return _aiff(data)
        case InputKind.FLAC:
            return _flac(data, start)
        case InputKind.MP3 | InputKind.AAC:
            return _mpeg(data, sniffed)
        case InputKind.OGG:
            return _ogg(data, start)
        case InputKind.MP4:
            return _mp4(data, start)
        case InputKind.WEBM:
            return _webm(data, start)


def refuse_truncated(kind: InputKind, detail: str) -> NoReturn:
    """Raise the error for a file whose end is missing."""
    raise InvalidAudioError(
        f"the {kind} recording is truncated: {detail}; upload the complete file"
    )


def _chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset of the body and claimed size of each RIFF or FORM chunk."""
    at = 12
    while at + 8 <= len(data):
        size: int = struct.unpack_from(f"{order}I", data, at + 4)[0]
        yield data[at : at + 4], at + 8, size
        at += 8 + size + size % 2


def _wav(data: bytes) -> Promise:
    bytes_per_s = 0
    size_64: int | None = None
    for name, at, size in _chunks(data, "<"):
        if name == b"ds64" and at + 16 <= len(data):
            size_64 = struct.unpack_from("<Q", data, at + 8)[0]
        elif name == b"fmt " and at + 14 <= len(data):
            tag, _, rate_hz, bytes_per_s, block = struct.unpack_from("<HHIIH", data, at)
            if tag in _WAV_PCM_TAGS:
                bytes_per_s = rate_hz * block
        elif name == b"data":
            if size_64 is not None and size == 0xFFFFFFFF:
                size = size_64
            elif size in _OPEN_SIZES or size > 0xFFFFFFFF - _MAX_HEADER_BYTES:
                return Promise(None, 0, len(data))
            if bytes_per_s == 0:
                raise InvalidAudioError("the WAV header is damaged; export the recording again")
            missing_s = (at + size - len(data)) / bytes_per_s
            duration_s = size / bytes_per_s
            if missing_s > TOLERANCE_S:
                refuse_truncated(
                    InputKind.WAV,
                    f"its header promises {duration_s:.1f} s, {duration_s - missing_s:.1f} s came",
                )
            return Promise(duration_s, 0, len(data))
    refuse_truncated(InputKind.WAV, "it ends before any sound")


def _aiff(data: bytes) -> Promise:
    bytes_per_sample_row, rate_hz = 0, 0.0
    for name, at, size in _chunks(data, ">"):
        if name == b"COMM" and at + 18 <= len(data):
            channels, _, bits, exponent, mantissa = struct.unpack_from(">hIhHQ", data, at)
            bytes_per_sample_row = channels * ((bits + 7) // 8)
            # An 80-bit float; beyond 2 ** 32 Hz it is damage.
            rate_hz = math.ldexp(mantissa, min(exponent & 0x7FFF, 16383 + 32) - 16383 - 63)
        elif name == b"SSND":
            missing = at + size - len(data)
            if missing > TOLERANCE_S * rate_hz * bytes_per_sample_row:
                refuse_truncated(InputKind.AIFF, f"{missing} bytes are missing at its end")
            return Promise(None, 0, len(data))
    refuse_truncated(InputKind.AIFF, "it ends before any sound")


def _flac(data: bytes, start: int) -> Promise:
    info = data[start + 8 : start + 42]
    if len(info) < 34:
        refuse_truncated(InputKind.FLAC, "it ends inside its header")
    packed = int.from_bytes(info[10:18], "big")  # 20 bits rate, 3 channels, 5 depth, 36 samples
    rate_hz, num_samples = packed >> 44, packed & (1 << 36) - 1
    duration_s = num_samples / rate_hz if num_samples and rate_hz else None
    # Exact to the sample: FFmpeg drops a damaged block without a word, so one would be missing.
    return Promise(duration_s, start, len(data), tolerance_s=0.5 / rate_hz if rate_hz else 0.0)


def _mpeg(data: bytes, sniffed: Sniffed) -> Promise:
    kind = sniffed.kind
    header_at = mp3_header if kind is InputKind.MP3 else adts_header
    walk = walk_frames(data, sniffed.start, header_at)
    if walk is None or (walk.num_frames == 0 and sniffed.start == 0):
        raise not_audio(data)  # four bytes that look like a header are no proof of a recording
    if walk.is_cut:
        refuse_truncated(kind, f"it ends inside a frame, {walk.duration_s:.1f} s are whole")
    promised = walk.promised_frames
    if promised is not None and promised - walk.num_frames > 1:
        refuse_truncated(kind, f"it promises {promised} frames and holds {walk.num_frames}")
    # No length: the frames also hold the encoder's delay and padding, which is no sound.
    return Promise(None, walk.start, walk.end)


def _ogg(data: bytes, start: int) -> Promise:
    at = end = start
    while 0 <= at < len(data):
        segments_at = at + _OGG_HEADER_BYTES
        num_segments = data[segments_at - 1] if segments_at <= len(data) else 0
        end = segments_at + num_segments + sum(data[segments_at : segments_at + num_segments])
        if end > len(data):
            refuse_truncated(InputKind.OGG, "it ends inside a page")
        at = data.find(b"OggS", end)
    return Promise(None, start, end)


def _mp4(data: bytes, start: int) -> Promise:
    indexes: list[bytes] = []
    at = start
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # the size stands behind the name, in 64 bits
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # the last box, up to the end of the file
            size = len(data) - at
        if data[at + 4 : at + 8] in (b"moov", b"moof"):
            indexes.append(data[at : at + size])
        at += max(size, 8)
    if at > len(data):
        refuse_truncated(InputKind.MP4, f"{at - len(data)} bytes are missing at its end")
    if not indexes:
        refuse_truncated(InputKind.MP4, "its index is missing")
    _refuse_index_bomb(indexes, len(data))
    return Promise(None, start, len(data))


def _refuse_index_bomb(indexes: list[bytes], num_bytes: int) -> None:
    """Refuse an index that lists more packets than the file has bytes.

    FFmpeg believes these counts and makes a list of that length: 25 kB took 2.5 GB. A compressed
    index (QuickTime's ``cmov``) would hide them.
    """
    num_packets = 0
    for index in indexes:
        if b"cmov" in index:
            raise InvalidAudioError("the M4A/MP4 file has a compressed index; export it again")
        for table, count_at in ((b"stsz", 12), (b"trun", 8)):
            at = index.find(table)
            while at >= 0:
                num_packets += int.from_bytes(index[at + count_at : at + count_at + 4], "big")
                at = index.find(table, at + 4)
    if num_packets > num_bytes:
        raise InvalidAudioError("the M4A/MP4 index is damaged; export the recording again")


def _webm(data: bytes, start: int) -> Promise:
    size, body = _ebml_size(data, start + 4)
    segment = body + size
    if size != _UNKNOWN_EBML_SIZE and data[segment : segment + 4] == _EBML_SEGMENT:
        size, body = _ebml_size(data, segment + 4)
        if size != _UNKNOWN_EBML_SIZE and body + size > len(data):
            refuse_truncated(InputKind.WEBM, f"{body + size - len(data)} bytes are missing")
    return Promise(None, start, len(data))


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Read a length of 1 to 8 bytes; give it (or the unknown size) and the offset behind it."""
    first = data[at] if at < len(data) else 0
    num_bytes = 9 - first.bit_length()
    if num_bytes > 8:
        refuse_truncated(InputKind.WEBM, "it ends inside its header")
    value = int.from_bytes(data[at : at + num_bytes], "big") & (1 << 7 * num_bytes) - 1
    is_unknown = value == (1 << 7 * num_bytes) - 1
    return (_UNKNOWN_EBML_SIZE if is_unknown else value), at + num_bytes
