"""Between float samples and 16-bit PCM, in one place so that every format rounds alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

S16_SCALE = 32767.0
"""+1.0 becomes 32767 and -1.0 becomes -32767; -32768 is never written."""

BYTES_PER_S16 = 2


def to_s16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round float samples to 16 bits; what is beyond -1..1 is clamped, never wrapped.

    Args:
        samples: ``[S]`` float32.

    Returns:
        ``[S]`` int16 in the machine's byte order, -32767..32767.

    Raises:
        ValueError: A sample is NaN: no 16-bit number stands for it.
    """
    scaled = np.clip(samples, -1.0, 1.0) * np.float32(S16_SCALE)
    if np.isnan(scaled).any():
        raise ValueError("samples contain NaN")
    return np.rint(scaled).astype(np.int16)


def to_s16le_bytes(samples: NDArray[np.float32]) -> bytes:
    """Give ``[S]`` float32 samples as little-endian 16-bit PCM, ``2 * S`` bytes.

    Raises:
        ValueError: A sample is NaN.
    """
    return to_s16(samples).astype("<i2", copy=False).tobytes()


def from_s16le_bytes(data: bytes) -> NDArray[np.float32]:
    """Read little-endian 16-bit PCM back as ``[S]`` float32; undoes ``to_s16le_bytes``.

    Raises:
        ValueError: The number of bytes is odd.
    """
    if len(data) % BYTES_PER_S16:
        raise ValueError(f"16-bit PCM has an even number of bytes, got {len(data)}")
    return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(S16_SCALE)
