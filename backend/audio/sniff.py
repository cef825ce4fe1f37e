"""Tell what an upload is by its first bytes; names and media types from clients are not trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.core.errors import InvalidAudioError

ACCEPTED = "upload WAV, AIFF, FLAC, OGG (Vorbis or Opus), MP3, AAC, M4A/MP4 or WebM"
"""How messages name the way out."""


class InputKind(StrEnum):
    """The containers that are read. Each value is its name for people."""

    WAV = "WAV"
    AIFF = "AIFF"
    FLAC = "FLAC"
    OGG = "OGG"
    MP3 = "MP3"
    AAC = "AAC"
    MP4 = "M4A/MP4"
    WEBM = "WebM"


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What an upload is.

    Attributes:
        kind: The container.
        start: Offset of its first byte; above 0 where an ID3 tag stands before it.
    """

    kind: InputKind
    start: int


_NOT_SOUND = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"MThd", "MIDI notes without sound"),
)
_ID3_HEADER_BYTES = 10
_TEXT_PROBE_BYTES = 4096
_TEXT_CONTROLS = frozenset("\t\n\r\f\b\x1b")


def sniff(data: bytes) -> Sniffed:
    """Find out which container ``data`` is.

    Raises:
        InvalidAudioError: It is empty, text, a picture, or anything else that is not read.
    """
    if not data:
        raise InvalidAudioError(f"the recording is empty (0 bytes); {ACCEPTED}")
    start = _end_of_id3(data)
    kind = _kind_at(data, start)
    if kind is not None:
        return Sniffed(kind, start)
    raise not_audio(data)


def not_audio(data: bytes) -> InvalidAudioError:
    """Make the error for something that is not a recording, and say what it looks like."""
    for magic, what in _NOT_SOUND:
        if data.startswith(magic):
            return InvalidAudioError(f"the upload is not audio (looks like {what}); {ACCEPTED}")
    if _looks_like_text(data):
        return InvalidAudioError(f"the upload is not audio (looks like text); {ACCEPTED}")
    return InvalidAudioError(f"the upload is not audio in a known format; {ACCEPTED}")


def _kind_at(data: bytes, start: int) -> InputKind | None:
    head = data[start : start + 12]
    if head[:4] in (b"RIFF", b"RF64"):
        return InputKind.WAV if head[8:12] in (b"WAVE", b"") else None
    if head[:4] == b"FORM":
        return InputKind.AIFF if head[8:12] in (b"AIFF", b"AIFC") else None
    if head[4:8] == b"ftyp":
        return InputKind.MP4
    for magic, kind in (
        (b"fLaC", InputKind.FLAC),
        (b"OggS", InputKind.OGG),
        (b"\x1aE\xdf\xa3", InputKind.WEBM),
    ):
        if head.startswith(magic):
            return kind
    if start > 0:  # an ID3 tag may be followed by padding, so the sync word may come later
        return InputKind.AAC if _is_adts(head) else InputKind.MP3
    return InputKind.AAC if _is_adts(head) else InputKind.MP3 if _is_mpeg(head) else None


def _is_mpeg(head: bytes) -> bool:
    """Eleven sync bits, then a version and a layer that exist."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 != 0x00
        and head[2] & 0xF0 != 0xF0
        and head[2] & 0x0C != 0x0C
    )


def _is_adts(head: bytes) -> bool:
    """Twelve sync bits, and the layer field that MPEG layers I to III never have."""
    return len(head) >= 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def _end_of_id3(data: bytes) -> int:
    """Offset behind the ID3v2 tags at the start: 0 when there is none."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + _ID3_HEADER_BYTES:
        size = 0
        for byte in data[start + 6 : start + _ID3_HEADER_BYTES]:
            size = size << 7 | byte & 0x7F
        has_footer = bool(data[start + 5] & 0x10)
        start += _ID3_HEADER_BYTES * (2 if has_footer else 1) + size
    return start


def _looks_like_text(data: bytes) -> bool:
    probe = data[:_TEXT_PROBE_BYTES]
    if probe.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = probe.decode("utf-16", errors="replace")
    else:
        try:
            # The last character of the probe may be cut; three bytes are the most it can lack.
            text = probe.decode("utf-8", errors="strict" if len(probe) == len(data) else "ignore")
        except UnicodeDecodeError:
            return False
        if len(text.encode("utf-8")) < len(probe) - 3:
            return False
    return all(char.isprintable() or char in _TEXT_CONTROLS for char in text)
