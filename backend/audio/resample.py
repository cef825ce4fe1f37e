"""Change the sample rate with soxr (HQ), whole or while the sound is still being made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUALITY = "HQ"


def resample(
    samples: NDArray[np.float32], from_rate_hz: int, to_rate_hz: int
) -> NDArray[np.float32]:
    """Resample a whole mono recording.

    Args:
        samples: ``[S]`` float32.
        from_rate_hz: Rate of ``samples``.
        to_rate_hz: Wanted rate.

    Returns:
        ``[round(S * to / from)]`` float32 (give or take one sample); the input itself when the
        rates are equal.
    """
    if from_rate_hz == to_rate_hz:
        return samples
    stream = StreamResampler(from_rate_hz, to_rate_hz)
    return np.concatenate([stream.feed(samples), stream.finish()])


class StreamResampler:
    """Resample mono sound chunk by chunk, with the same samples as ``resample`` on the whole.

    Life: ``feed`` any number of times -> ``finish`` once. The first chunks come back shorter: the
    filter holds a few milliseconds back, and ``finish`` returns them. Not for use by two threads.

    Args:
        from_rate_hz: Rate of what is fed.
        to_rate_hz: Rate of what comes out. With equal rates chunks pass through untouched.
    """

    def __init__(self, from_rate_hz: int, to_rate_hz: int) -> None:
        self._stream = (
            None
            if from_rate_hz == to_rate_hz
            else soxr.ResampleStream(
                from_rate_hz, to_rate_hz, num_channels=1, dtype="float32", quality=_QUALITY
            )
        )

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take ``[S]`` float32 and give the resampled samples that are ready, possibly none."""
        if self._stream is None or samples.size == 0:
            return samples
        chunk: NDArray[np.float32] = self._stream.resample_chunk(samples)
        return chunk

    def finish(self) -> NDArray[np.float32]:
        """Give what the filter still holds. The stream takes no more samples after this."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: NDArray[np.float32] = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return rest
