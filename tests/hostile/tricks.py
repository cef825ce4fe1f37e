"""Builders of hostile content: recordings that lie, archives that explode, endless bodies."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from functools import cache

import numpy as np

from backend.audio.encoders import encode_whole
from tests.conftest import file_of, tone

MIB = 1 << 20
EIGHT_HOURS_S = 8 * 3600


def wav_header(num_bytes: int, rate_hz: int = 16_000, channels: int = 1, tag: int = 1) -> bytes:
    """A WAV header that promises ``num_bytes`` of sound, whatever follows."""
    block = 2 * channels
    per_second = rate_hz * block & 0xFFFFFFFF
    fmt = struct.pack("<HHIIHH", tag, channels, rate_hz, per_second, block & 0xFFFF, 16)
    riff = struct.pack("<4sI4s", b"RIFF", (36 + num_bytes) & 0xFFFFFFFF, b"WAVE")
    return riff + struct.pack("<4sI", b"fmt ", 16) + fmt + struct.pack("<4sI", b"data", num_bytes)


def eight_hour_wav() -> bytes:
    """A header of 8 hours and a second of sound."""
    return wav_header(EIGHT_HOURS_S * 16_000 * 2) + b"\x01\x02" * 16_000


@cache
def long_flac() -> bytes:
    """20 minutes of almost silence: small on the wire, large in memory."""
    samples = np.zeros(20 * 60 * 8000, np.float32)
    samples[::400] = 0.5
    return file_of(samples, "FLAC", 8000)


def flac_that_claims(num_samples: int) -> bytes:
    """A short FLAC whose header promises ``num_samples``."""
    data = bytearray(file_of(tone(2.0), "FLAC"))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_samples
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def mp4_with_a_long_index() -> bytes:
    """An M4A whose table of packets claims 2 ** 32 - 1 entries."""
    table = struct.pack(">I4sIII", 20, b"stsz", 0, 0, 0xFFFFFFFF)
    moov = struct.pack(">I4s", 8 + len(table), b"moov") + table
    return struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + moov


def zip_bomb(num_bytes: int = 200 * MIB, name: str = "voice.wav") -> bytes:
    """A ZIP file that unpacks to ``num_bytes`` zeros."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as member,
    ):
        block = bytes(MIB)
        for _ in range(num_bytes // MIB):
            member.write(block)
    return target.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    """A ZIP file with these members, whatever their names."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def gzip_bomb(num_bytes: int = 100 * MIB) -> bytes:
    """A gzip stream that unpacks to ``num_bytes`` zeros."""
    return gzip.compress(bytes(num_bytes), compresslevel=1)


def nested_lists(depth: int) -> bytes:
    """Deep JSON that is complete."""
    return b"[" * depth + b"]" * depth


def nested_maps(depth: int) -> bytes:
    """Deep msgpack: maps of one key."""
    return b"\x81\xa1a" * depth + b"\xc0"


SPEECH = file_of(tone(2.0))
MP3 = encode_whole("mp3", tone(2.0), 16_000)
NOISE = bytes(np.random.default_rng(7).integers(0, 256, 40_000, np.uint8))

BAD_RECORDINGS: dict[str, bytes] = {
    "8-hour header": eight_hour_wav(),
    "4 GB header": wav_header(0xFFFFFFF0) + bytes(1000),
    "rate of 0 Hz": wav_header(32_000, rate_hz=0) + bytes(32_000),
    "rate of 4 GHz": wav_header(32_000, rate_hz=0xFFFFFFFF) + b"\x01\x70" * 16_000,
    "0 channels": wav_header(32_000, channels=0) + b"\x01\x70" * 16_000,
    "65535 channels": wav_header(32_000, channels=65535) + b"\x01\x70" * 16_000,
    "unknown codec": wav_header(32_000, tag=0x7777) + b"\x01\x70" * 16_000,
    "header only": wav_header(0),
    "half a header": SPEECH[:20],
    "wav without chunks": b"RIFF\x00\x00\x00\x00WAVE",
    "flac of 36 bits": flac_that_claims((1 << 36) - 1),
    "flac header only": b"fLaC\x00\x00\x00\x22" + bytes(34),
    "ogg of nothing": b"OggS" + bytes(23),
    "ogg of noise": b"OggS\x00\x02" + NOISE,
    "webm of noise": b"\x1aE\xdf\xa3" + NOISE,
    "mp4 index bomb": mp4_with_a_long_index(),
    "id3 tag of 256 MB": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(100),
    "mp3 sync only": b"\xff\xfb\x90\x00" * 10,
    "text": b"This is a text, not a recording. " * 100,
    "html": b"<html><script>alert(1)</script></html>" * 50,
    "json": json.dumps({"audio": "x"}).encode() * 20,
    "png": b"\x89PNG\r\n\x1a\n" + NOISE,
    "zip bomb": zip_bomb(20 * MIB),
    "gzip bomb": gzip_bomb(10 * MIB),
    "program": b"\x7fELF" + NOISE,
    "random bytes": NOISE,
    "one byte": b"\x00",
    "silence": file_of(np.zeros(32_000, np.float32)),
    "too short": file_of(tone(0.05)),
    "nan samples": file_of(np.full(32_000, np.nan, np.float32), "WAV"),
}
"""What no endpoint may take for a recording of a voice."""

PATH_TRICKS = (
    "..",
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "%2e%2e%2fetc%2fpasswd",
    "..%2f..%2fsecret",
    "%252e%252e%252f",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "\\\\server\\share",
    "voice\x00.json",
    "a/b",
    "./alto",
    "alto/../basso",
    ".hidden",
    "~root",
    "x" * 5000,
    "\u202egnp.exe",
    "a\nb",
    "'; DROP TABLE voices; --",
    "${jndi:ldap://x}",
    "{{7*7}}",
)
"""Names and ids that would leave a folder, if one of them were ever joined to a path."""

ODD_NAMES = (*PATH_TRICKS, "CON", "nul.wav", "<|im_end|>", "alto")
"""Names for new voices: some may be taken, for they are never a path."""
