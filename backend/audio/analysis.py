"""Measure a stretch of sound: level, clipping, silence, pitch. For tests, pages and benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.audio.pitch import median_f0_hz

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLIP_LEVEL = 0.999
_SILENCE_POWER = 10 ** (-50 / 10)
_FRAME_S = 0.02


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """What was measured.

    Attributes:
        duration_s: Length.
        peak_dbfs: Largest sample relative to full scale; None for digital silence.
        rms_dbfs: Mean power relative to full scale (a full-scale sine has -3 dB); None for digital
            silence.
        clipping_ratio: Share of samples at 0.999 of full scale or above, 0..1.
        silence_ratio: Share of 20 ms frames below -50 dBFS, 0..1.
        median_f0_hz: Median pitch of the voiced parts; None when nothing is voiced.
    """

    duration_s: float
    peak_dbfs: float | None
    rms_dbfs: float | None
    clipping_ratio: float
    silence_ratio: float
    median_f0_hz: float | None


def describe(samples: NDArray[np.float32], sample_rate: int) -> SoundFacts:
    """Measure ``[S]`` float32 samples.

    Raises:
        ValueError: There are no samples, or they are not one-dimensional.
    """
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"samples must be [S] with S > 0, got {samples.shape}")
    magnitudes = np.abs(samples)
    frame_size = max(1, min(samples.size, round(_FRAME_S * sample_rate)))
    num_frames = samples.size // frame_size
    frames = samples[: num_frames * frame_size].reshape(num_frames, frame_size)
    frame_power: NDArray[np.float64] = np.mean(frames.astype(np.float64) ** 2, axis=1)
    rms = math.sqrt(float(np.mean(samples.astype(np.float64) ** 2)))
    return SoundFacts(
        duration_s=samples.size / sample_rate,
        peak_dbfs=_dbfs(float(magnitudes.max())),
        rms_dbfs=_dbfs(rms),
        clipping_ratio=float(np.mean(magnitudes >= _CLIP_LEVEL)),
        silence_ratio=float(np.mean(frame_power < _SILENCE_POWER)),
        median_f0_hz=median_f0_hz(samples, sample_rate),
    )


def _dbfs(level: float) -> float | None:
    return 20 * math.log10(level) if level > 0 else None
