"""16-bit mono WAV: a header that can be sent before the length is known, and whole files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from backend.audio.formats import AI_GENERATED_COMMENT
from backend.audio.pcm import BYTES_PER_S16, to_s16le_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNKNOWN_SIZE = 0xFFFFFFFF
"""Size field of a file that is still growing; players then read to the end of the stream."""

_PCM_FORMAT_TAG = 1
_RIFF_HEADER_BYTES = 8


def wav_header(sample_rate: int, *, num_samples: int | None) -> bytes:
    """Write everything that comes before the samples, with the AI comment in a LIST INFO chunk.

    Args:
        sample_rate: In Hz.
        num_samples: Samples that follow, or None when nobody knows yet: both size fields are then
            ``UNKNOWN_SIZE``, as programs that write WAV into a pipe do.

    Raises:
        ValueError: The samples do not fit the 32-bit size fields of the format.
    """
    fmt = struct.pack(
        "<HHIIHH",
        _PCM_FORMAT_TAG,
        1,
        sample_rate,
        sample_rate * BYTES_PER_S16,
        BYTES_PER_S16,
        8 * BYTES_PER_S16,
    )
    comment = AI_GENERATED_COMMENT.encode("ascii") + b"\x00"
    body = b"WAVE" + _chunk(b"fmt ", fmt) + _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment))
    if num_samples is None:
        riff_size = data_size = UNKNOWN_SIZE
    else:
        data_size = num_samples * BYTES_PER_S16
        riff_size = len(body) + _RIFF_HEADER_BYTES + data_size
        if riff_size >= UNKNOWN_SIZE:
            raise ValueError(f"{num_samples} samples do not fit a WAV file of 4 GiB")
    return b"RIFF" + struct.pack("<I", riff_size) + body + b"data" + struct.pack("<I", data_size)


def whole_wav(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Give ``[S]`` float32 samples in -1..1 as one complete 16-bit mono WAV file.

    Raises:
        ValueError: A sample is NaN, or the file would pass 4 GiB.
    """
    return wav_header(sample_rate, num_samples=samples.size) + to_s16le_bytes(samples)


def _chunk(name: bytes, body: bytes) -> bytes:
    padding = b"\x00" * (len(body) % 2)  # chunks start at even offsets; the size leaves it out
    return name + struct.pack("<I", len(body)) + body + padding
