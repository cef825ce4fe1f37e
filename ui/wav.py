"""WAV files from samples."""

from __future__ import annotations

import io
import wave

BYTES_PER_SAMPLE = 2


def wav_file(pcm: bytes, sample_rate: int) -> bytes:
    """Put mono 16-bit little-endian samples into a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(BYTES_PER_SAMPLE)
        writer.setframerate(sample_rate)
        writer.writeframes(pcm)
    return file.getvalue()
