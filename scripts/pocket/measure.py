"""Acoustic measures of 16 kHz speech: pitch, voicing, level, brightness, timbre, pauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.pocket.dsp import Samples, active_level_db
from scripts.pocket.render import RATE_HZ

_WINDOW, _HOP = 800, 160  # 50 ms and 10 ms
_PITCH_HZ = (60.0, 420.0)
_ACTIVE_DB = 35.0  # frames that far below the loudest are silence
_BANDS = 24

Floats = NDArray[np.float64]


def _frames(x: Samples) -> Floats:
    padded = np.pad(x.astype(np.float64), (0, max(0, _WINDOW - len(x))))
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]


def _is_active(frames: Floats) -> NDArray[np.bool_]:
    power = (frames**2).mean(1)
    return power > power.max() * 10 ** (-_ACTIVE_DB / 10) + 1e-10


def pitch_track(x: Samples) -> tuple[Floats, NDArray[np.bool_]]:
    """Pitch in Hz of each 10 ms frame, 0 where unvoiced, and which frames are active."""
    frames = _frames(x)
    taper = np.hanning(_WINDOW)
    own = np.fft.irfft(np.abs(np.fft.rfft(taper, 2 * _WINDOW)) ** 2)
    power = np.abs(np.fft.rfft(frames * taper, 2 * _WINDOW)) ** 2
    r = np.fft.irfft(power)
    r = r / np.maximum(r[:, :1], 1e-9) / (own / own[0] + 1e-9)
    low, high = int(RATE_HZ / _PITCH_HZ[1]), int(RATE_HZ / _PITCH_HZ[0])
    inner = r[:, low:high]
    top = inner.max(1)
    is_peak = (
        (inner >= 0.93 * top[:, None])
        & (inner >= r[:, low - 1 : high - 1])
        & (inner >= r[:, low + 1 : high + 1])
    )
    lag = is_peak.argmax(1) + low
    rows = np.arange(len(r))
    a, b, c = r[rows, lag - 1], r[rows, lag], r[rows, lag + 1]
    shift = 0.5 * (a - c) / np.where(np.abs(a - 2 * b + c) < 1e-9, 1.0, a - 2 * b + c)
    active = _is_active(frames)
    is_voiced = active & (top > 0.6) & is_peak.any(1)
    return np.where(is_voiced, RATE_HZ / (lag + np.clip(shift, -0.5, 0.5)), 0.0), active


@dataclass(frozen=True)
class VoiceMeasures:
    """What markers change.

    Attributes:
        pitch_hz: median pitch, 0 where nothing is voiced.
        voiced: share of the active frames that are voiced.
        level_db: active level.
        brightness_db: level above 1 kHz against the level below.
        duration_s: from the first active frame to the last.
        longest_pause_s: longest silence between active frames.
        voiced_at_start: share of voiced frames in the first 0.4 s of speech.
    """

    pitch_hz: float
    voiced: float
    level_db: float
    brightness_db: float
    duration_s: float
    longest_pause_s: float
    voiced_at_start: float


def measure_voice(x: Samples) -> VoiceMeasures:
    """Measure one utterance."""
    pitch, active = pitch_track(x)
    where = np.flatnonzero(active)
    if len(where) == 0:
        return VoiceMeasures(0.0, 0.0, -120.0, 0.0, 0.0, 0.0, 0.0)
    voiced = pitch[pitch > 0]
    spectrum = (np.abs(np.fft.rfft(_frames(x)[active], axis=1)) ** 2).sum(0)
    split = int(1000 * _WINDOW / RATE_HZ)
    bright = 10 * np.log10(spectrum[split:].sum() / max(spectrum[3:split].sum(), 1e-12) + 1e-12)
    gaps = np.diff(where) - 1
    start = pitch[where[0] : where[0] + 40]
    return VoiceMeasures(
        pitch_hz=float(np.median(voiced)) if len(voiced) else 0.0,
        voiced=len(voiced) / len(where),
        level_db=active_level_db(x),
        brightness_db=float(bright),
        duration_s=float(where[-1] - where[0] + 1) * _HOP / RATE_HZ,
        longest_pause_s=float(gaps.max(initial=0)) * _HOP / RATE_HZ,
        voiced_at_start=float((start > 0).mean()),
    )


def timbre(x: Samples) -> Floats:
    """Mean log-mel spectrum of the voiced frames, its own mean removed: ``[24]`` dB."""
    pitch, active = pitch_track(x)
    chosen = pitch > 0 if (pitch > 0).sum() > 20 else active
    power = np.abs(np.fft.rfft(_frames(x)[chosen] * np.hanning(_WINDOW), axis=1)) ** 2
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1) * _WINDOW / RATE_HZ
    bands = np.stack(
        [
            power[:, int(edges[b]) : max(int(edges[b]) + 1, int(edges[b + 2]))].mean(1)
            for b in range(_BANDS)
        ]
    )
    mean = (10 * np.log10(bands + 1e-9)).mean(1)
    return mean - mean.mean()


def timbre_distance(a: Floats, b: Floats) -> float:
    """Mean difference of two timbres in dB."""
    return float(np.abs(a - b).mean())
