"""Estimate the pitch of a voice.

Enough to tell voices apart and to see a rise or a fall; not a reference-grade tracker.

Source:
    A. de Cheveigne and H. Kawahara, "YIN, a fundamental frequency estimator for speech and music",
    JASA 111(4), 2002: steps 2 (difference function), 3 (cumulative mean), 4 (absolute threshold)
    and 5 (parabolic interpolation), with our own constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backend.audio.resample import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_F0_HZ = 55.0
MAX_F0_HZ = 500.0

_RATE_HZ = 16_000
_WINDOW = 512  # 32 ms: nearly two periods of the lowest voice
_HOP = 320  # 20 ms
_SMOOTHING = 16  # 1 ms: takes out what is above 1 kHz, where periods agree least
_MAX_LAG = int(_RATE_HZ / MIN_F0_HZ) + 1
_MIN_LAG = int(_RATE_HZ / MAX_F0_HZ)
_APERIODICITY = 0.15  # a frame is voiced when its best lag leaves less than this unexplained
_MIN_RMS = 10 ** (-50 / 20)
_BATCH_FRAMES = 512  # bounds the memory of the transforms


def f0_track_hz(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """Give the pitch of every 20 ms.

    Args:
        samples: ``[S]`` float32.
        sample_rate: In Hz.

    Returns:
        ``[N]`` float64 in Hz between ``MIN_F0_HZ`` and ``MAX_F0_HZ``, NaN where the sound is
        unvoiced or too quiet. Empty when there are less than about 50 ms.
    """
    if samples.size < _SMOOTHING:
        return np.zeros(0)
    wide = resample(samples, sample_rate, _RATE_HZ).astype(np.float64)
    sound = np.convolve(wide, np.full(_SMOOTHING, 1 / _SMOOTHING), mode="valid")
    length = _WINDOW + _MAX_LAG
    if sound.size < length:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::_HOP]
    batches = range(0, len(frames), _BATCH_FRAMES)
    return np.concatenate([_frame_f0_hz(frames[at : at + _BATCH_FRAMES]) for at in batches])


def median_f0_hz(samples: NDArray[np.float32], sample_rate: int) -> float | None:
    """Give the median pitch of the voiced frames in Hz, or None when nothing is voiced."""
    track = f0_track_hz(samples, sample_rate)
    voiced = track[~np.isnan(track)]
    return float(np.median(voiced)) if voiced.size else None


def _frame_f0_hz(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate ``[N]`` pitches of ``[N, _WINDOW + _MAX_LAG]`` frames."""
    unexplained = _cumulative_mean_difference(frames)
    is_loud = np.sqrt(np.mean(frames**2, axis=1)) >= _MIN_RMS
    lags = np.full(len(frames), np.nan)
    for i in np.flatnonzero(is_loud):
        lag = _first_dip(unexplained[i])
        if lag is not None:
            lags[i] = lag
    f0_hz: NDArray[np.float64] = _RATE_HZ / lags
    return f0_hz


def _cumulative_mean_difference(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute ``[N, _MAX_LAG + 1]``: 1 at lag 0, near 0 at a lag that repeats the window."""
    num_points = 1 << (frames.shape[1] + _WINDOW - 1).bit_length()
    window = np.fft.rfft(frames[:, :_WINDOW], num_points, axis=1)
    whole = np.fft.rfft(frames, num_points, axis=1)
    products = np.fft.irfft(whole * window.conj(), num_points, axis=1)[:, : _MAX_LAG + 1]
    sums = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    energies = sums[:, _WINDOW : _WINDOW + _MAX_LAG + 1] - sums[:, : _MAX_LAG + 1]
    difference = np.maximum(energies[:, :1] + energies - 2 * products, 0.0)
    lags = np.arange(1, _MAX_LAG + 1)
    means = np.cumsum(difference[:, 1:], axis=1) / lags
    normalized = np.ones_like(difference)
    np.divide(difference[:, 1:], means, out=normalized[:, 1:], where=means > 0)
    return normalized


def _first_dip(unexplained: NDArray[np.float64]) -> float | None:
    """Find the bottom of the first dip below the threshold, between two lags if need be."""
    below = np.flatnonzero(unexplained[_MIN_LAG:_MAX_LAG] < _APERIODICITY)
    if not below.size:
        return None
    lag = _MIN_LAG + int(below[0])
    while lag + 1 < _MAX_LAG and unexplained[lag + 1] < unexplained[lag]:
        lag += 1
    left, bottom, right = unexplained[lag - 1 : lag + 2]
    curvature = left - 2 * bottom + right
    shift = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    return lag + float(np.clip(shift, -0.5, 0.5))
