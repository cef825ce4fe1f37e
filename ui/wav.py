"""WAV files from samples."""

from __future__ import annotations

import struct

BYTES_PER_SAMPLE = 2
AI_COMMENT = b"AI-generated speech\x00"
"""Written into every file, as the backend writes it into its own."""


def wav_file(pcm: bytes, sample_rate: int) -> bytes:
    """Put mono 16-bit little-endian samples into a WAV file that says it is made by a machine."""
    layout = struct.pack(
        "<HHIIHH", 1, 1, sample_rate, sample_rate * BYTES_PER_SAMPLE, BYTES_PER_SAMPLE, 16
    )
    comment = b"INFO" + _chunk(b"ICMT", AI_COMMENT)
    body = _chunk(b"fmt ", layout) + _chunk(b"LIST", comment) + _chunk(b"data", pcm)
    return _chunk(b"RIFF", b"WAVE" + body)


def _chunk(name: bytes, content: bytes) -> bytes:
    padding = b"\x00" if len(content) % 2 else b""
    return name + struct.pack("<I", len(content)) + content + padding
