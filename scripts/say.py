"""Speak one text through a running backend into a WAV file, with the standard library alone."""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING

from backend.core.errors import GenerationError, InvalidInputError
from scripts.local_http import fetch, multipart

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 600.0


def say(backend_url: str, text: str, voice: str | None, out: Path) -> str:
    """Speak ``text`` into ``out``.

    Returns:
        One line for people: the file, the seconds of speech and the seconds it took.

    Raises:
        InvalidInputError: The backend refused; the message is the backend's.
        GenerationError: It failed or answered with something that is no speech.
    """
    fields = {"text": text, "format": "wav", **({"voice": voice} if voice else {})}
    body, content_type = multipart(fields)
    started = time.monotonic()
    status, answer = fetch(f"{backend_url}/tts", TIMEOUT_S, body, {"Content-Type": content_type})
    took_s = time.monotonic() - started
    if status != 200:
        kind = InvalidInputError if 400 <= status < 500 else GenerationError
        raise kind(f"the backend could not speak this: {error_message(answer)}")
    wav, speech_s = sized_wav(answer)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(wav)
    return f"{out}: {speech_s:.2f} s of speech in {took_s:.2f} s"


def error_message(body: bytes) -> str:
    """Find the message in the backend's error body, or give another program's as it is."""
    text = body.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return text


def sized_wav(stream: bytes) -> tuple[bytes, float]:
    """Write the true sizes into a WAV that was sent before its length was known.

    Returns:
        The file, and its duration in seconds.

    Raises:
        GenerationError: The bytes are no WAV file with samples.
    """
    if stream[:4] != b"RIFF" or stream[8:12] != b"WAVE":
        raise GenerationError("the backend's answer is not a WAV file")
    wav = bytearray(stream)
    bytes_per_second, position = 0, 12
    while position + 8 <= len(wav):
        name, size = wav[position : position + 4], struct.unpack_from("<I", wav, position + 4)[0]
        if name == b"fmt " and position + 20 <= len(wav):
            bytes_per_second = struct.unpack_from("<I", wav, position + 16)[0]
        elif name == b"data" and bytes_per_second:
            length = len(wav) - position - 8
            struct.pack_into("<I", wav, position + 4, length)
            struct.pack_into("<I", wav, 4, len(wav) - 8)
            return bytes(wav), length / bytes_per_second
        position += 8 + size + size % 2
    raise GenerationError("the backend's answer holds no samples")
