"""Signal pieces of the renderer: spectrum shaping, whisper, sigh, level. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
_FRAME, _HOP = 320, 80  # 20 ms and 5 ms at 16 kHz
_LIFTER = 40  # cepstral coefficients that describe the vocal tract, without the harmonics


def resample_shaped(
    x: Samples, factor: float, rate_hz: int, tilt_db: float, bumps: tuple[tuple[float, float], ...]
) -> Samples:
    """Play ``factor`` times faster at the same sample rate and shape the spectrum, in one FFT.

    Args:
        x: ``[S]`` samples; an end of silence keeps the circular FFT harmless.
        factor: above 1 shortens the signal and raises all frequencies.
        rate_hz: sample rate.
        tilt_db: level well above 1 kHz against the level well below.
        bumps: broad resonances, (center in Hz, gain in dB) each, an octave wide.

    Returns:
        about ``S / factor`` samples.
    """
    padded = np.pad(x, (0, 256 + -len(x) % 512))
    spectrum = np.fft.rfft(padded)
    num_out = round(len(padded) / factor)
    num_bins = num_out // 2 + 1
    shaped = np.zeros(num_bins, np.complex128)
    kept = min(num_bins, len(spectrum))
    shaped[:kept] = spectrum[:kept] * (num_out / len(padded))
    frequency = np.arange(num_bins) * (rate_hz / num_out) + 1.0
    gain_db = tilt_db / (1.0 + (1000.0 / frequency) ** 2)
    for center_hz, bump_db in bumps:
        gain_db = gain_db + bump_db * np.exp(-2.0 * np.log2(frequency / center_hz) ** 2)
    y = np.fft.irfft(shaped * 10 ** (gain_db / 20), num_out)
    return y[: round(len(x) / factor)].astype(np.float32)


def active_level_db(x: Samples) -> float:
    """Level of the frames that are within 30 dB of the loudest one, in dBFS."""
    count = max(1, len(x) // _FRAME)
    frames = np.resize(x, count * _FRAME).reshape(count, _FRAME)
    power = (frames.astype(np.float64) ** 2).mean(1)
    active = power[power > power.max() * 1e-3]
    return float(10 * np.log10(active.mean() + 1e-12)) if len(active) else -120.0


def to_level(x: Samples, level_db: float) -> Samples:
    """Scale to an active level in dBFS; peaks above 0.9 are rounded off, never wrapped."""
    y = x * np.float32(10 ** ((level_db - active_level_db(x)) / 20))
    over = np.abs(y) > 0.8
    if over.any():
        y[over] = np.sign(y[over]) * (0.8 + 0.19 * np.tanh((np.abs(y[over]) - 0.8) / 0.19))
    return y


def whispered(x: Samples, rng: np.random.Generator) -> Samples:
    """The same speech breathed: white noise through the smoothed spectrum of each frame."""
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    padded = np.pad(x, (_FRAME, _FRAME + -len(x) % _HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP] * window
    power = np.abs(np.fft.rfft(frames, 512)) ** 2 + 1e-9
    cepstrum = np.fft.irfft(np.log(power))
    cepstrum[:, _LIFTER:-_LIFTER] = 0.0
    envelope = np.exp(0.5 * np.fft.rfft(cepstrum).real)
    noise = rng.standard_normal(len(padded)).astype(np.float32)
    noisy = np.lib.stride_tricks.sliding_window_view(noise, _FRAME)[::_HOP] * window
    breath = np.fft.irfft(np.fft.rfft(noisy, 512) * envelope)[:, :_FRAME] * window
    out = np.zeros(len(padded), np.float32)
    for part in range(_FRAME // _HOP):
        rows = breath[part :: _FRAME // _HOP]
        span = out[part * _HOP : part * _HOP + rows.size]
        span += rows.reshape(-1)[: len(span)].astype(np.float32)
    # Voiced speech is loud below 500 Hz, breath is not.
    kept = out[_FRAME : _FRAME + len(x)]
    return (np.diff(kept, prepend=np.float32(0)) + 0.3 * kept).astype(np.float32)


def sigh(rate_hz: int, level_db: float, rng: np.random.Generator) -> Samples:
    """A breath let out, half a second: noise around 1 kHz that falls in level and pitch."""
    count = int(rng.uniform(0.45, 0.6) * rate_hz)
    time = np.linspace(0.0, 1.0, count)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / rate_hz) + 1.0
    near = [np.exp(-1.2 * np.log2(frequency / hz) ** 2) for hz in (1600.0, 700.0)]
    bright, dark = (np.fft.irfft(spectrum * shape, count) for shape in near)
    body = (1 - time) * bright / bright.std() + time * dark / dark.std()
    body *= np.minimum(1.0, 6 * time) * (1 - time) ** 1.2
    return to_level(body.astype(np.float32), level_db)
