"""Recordings for the tests, made with libsndfile and FFmpeg the way other programs make them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
import soundfile as sf
from av.audio.stream import AudioStream

from backend.audio.decode import Recording, decode_audio
from backend.core.errors import InvalidAudioError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

RATE_HZ = 44_100
MAX_S = 30.0


def tone(
    duration_s: float = 1.5, rate_hz: int = RATE_HZ, f0_hz: float = 220.0, level: float = 0.3
) -> NDArray[np.float32]:
    """Two harmonics and a little noise: codecs keep it, and no frame of it is trivial."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(7).normal(0, 0.01, t.size)
    sound = np.sin(2 * np.pi * f0_hz * t) + 0.4 * np.sin(4 * np.pi * f0_hz * t + 1)
    return (level * sound / 1.4 + noise).astype(np.float32)


def sndfile_bytes(
    samples: NDArray[np.float32], rate_hz: int = RATE_HZ, *, container: str, subtype: str
) -> bytes:
    """Write with libsndfile; ``samples`` is ``[S]`` or ``[S, C]``."""
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def ffmpeg_bytes(
    samples: NDArray[np.float32],
    rate_hz: int = RATE_HZ,
    *,
    container: str,
    codec: str,
    sample_format: str = "fltp",
    bit_rate: int | None = None,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> bytes:
    """Write mono ``[S]`` with FFmpeg; ``path`` is for options that must read the file back."""
    file = io.BytesIO()
    target = str(path) if path is not None else file
    with av.open(target, "w", format=container, container_options=dict(options or {})) as out:
        stream = out.add_stream(codec, rate=rate_hz, options=dict(codec_options or {}))
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = sample_format
        if bit_rate is not None:
            stream.codec_context.bit_rate = bit_rate
        out.start_encoding()
        size = stream.codec_context.frame_size or 1024
        for at in range(0, samples.size, size):
            part = samples[None, at : at + size]
            if sample_format.startswith("s16"):
                part = np.rint(part * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, sample_format, "mono")
            frame.sample_rate = rate_hz
            frame.pts = at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes() if path is not None else file.getvalue()


def mp3_bytes(samples: NDArray[np.float32], *, xing: bool, vbr: bool = False) -> bytes:
    """A mono MP3, with or without the frame that states its length."""
    quality = {"flags": "+qscale", "global_quality": "944"}  # LAME -V 8
    return ffmpeg_bytes(
        samples,
        container="mp3",
        codec="libmp3lame",
        bit_rate=None if vbr else 128_000,
        options={"write_xing": "1" if xing else "0"},
        codec_options=quality if vbr else None,
    )


def snr_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How far ``other`` lies below ``reference``, sample by sample."""
    assert reference.shape == other.shape
    error = float(np.mean((reference.astype(np.float64) - other) ** 2))
    power = float(np.mean(reference.astype(np.float64) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(power / error)


def aligned(
    reference: NDArray[np.float32], other: NDArray[np.float32], max_delay: int
) -> NDArray[np.float32]:
    """Cut ``other`` to ``reference`` at the delay where they match best, at most ``max_delay``."""
    count = reference.size - max_delay
    scores = [float(np.dot(reference[:count], other[d : d + count])) for d in range(max_delay)]
    best = int(np.argmax(scores))
    return other[best : best + count]


def decoded(data: bytes, *, rate_hz: int = RATE_HZ, max_s: float = MAX_S) -> Recording:
    """Decode with the limits of the service."""
    return decode_audio(data, target_sample_rate=rate_hz, max_duration_s=max_s, min_duration_s=1.0)


def refusal(data: bytes, *, max_s: float = MAX_S) -> str:
    """Decode what must be refused, and give the message."""
    with pytest.raises(InvalidAudioError) as caught:
        decoded(data, max_s=max_s)
    return str(caught.value)
