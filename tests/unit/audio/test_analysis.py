from __future__ import annotations

import numpy as np
import pytest

from backend.audio.analysis import describe
from backend.audio.pitch import f0_track_hz, median_f0_hz
from backend.audio.resample import resample

RATES_HZ = [16_000, 22_050, 44_100]


def times(duration_s: float, rate_hz: int) -> np.ndarray:
    return np.arange(round(duration_s * rate_hz)) / rate_hz


def voice(f0_hz: float, rate_hz: int, duration_s: float = 1.0) -> np.ndarray:
    """A pulse train with two formants: all harmonics, the fundamental weak, as in a real voice."""
    t = times(duration_s, rate_hz)
    sound = np.zeros(t.size)
    for harmonic_hz in np.arange(f0_hz, 0.45 * rate_hz, f0_hz):
        weight = 1 / (1 + ((harmonic_hz - 600) / 150) ** 2)
        weight += 0.5 / (1 + ((harmonic_hz - 1700) / 200) ** 2)
        sound += weight * np.cos(2 * np.pi * harmonic_hz * t)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("f0_hz", [70.0, 95.0, 120.0, 165.0, 210.0, 280.0, 400.0])
def test_the_pitch_of_a_voice_is_found(f0_hz: float, rate_hz: int) -> None:
    assert median_f0_hz(voice(f0_hz, rate_hz), rate_hz) == pytest.approx(f0_hz, rel=0.02)


@pytest.mark.parametrize("f0_hz", [60.0, 110.0, 220.0, 440.0])
def test_the_pitch_of_a_sine_is_found_to_a_tenth_of_a_percent(f0_hz: float) -> None:
    samples = (0.3 * np.sin(2 * np.pi * f0_hz * times(1.0, 44_100))).astype(np.float32)
    assert median_f0_hz(samples, 44_100) == pytest.approx(f0_hz, rel=1e-3)


def test_the_pitch_survives_noise_and_pauses() -> None:
    rng = np.random.default_rng(5)
    sound = np.concatenate([voice(130, 44_100), np.zeros(44_100, np.float32), voice(130, 44_100)])
    noisy = sound + rng.normal(0, 0.005, sound.size).astype(np.float32)
    assert median_f0_hz(noisy, 44_100) == pytest.approx(130, rel=0.02)


def test_a_glide_is_followed() -> None:
    t = times(2.0, 44_100)
    glide = (0.3 * np.sin(2 * np.pi * (100 * t + 50 * t**2))).astype(np.float32)  # 100 to 300 Hz
    track = f0_track_hz(glide, 44_100)
    voiced = track[~np.isnan(track)]
    assert voiced.size > 0.9 * track.size
    assert voiced[0] == pytest.approx(103, abs=5)
    assert voiced[-1] == pytest.approx(297, abs=5)
    assert (np.diff(voiced) > -1).all()


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 44_100).astype(np.float32)
    assert median_f0_hz(noise, 44_100) is None
    assert median_f0_hz(np.zeros(44_100, np.float32), 44_100) is None


@pytest.mark.parametrize("num_samples", [0, 1, 15, 16, 500, 2_000])
def test_a_blink_of_sound_has_no_pitch(num_samples: int) -> None:
    assert median_f0_hz(voice(120, 44_100)[:num_samples], 44_100) is None


def test_levels_of_a_known_sine() -> None:
    samples = (0.5 * np.sin(2 * np.pi * 441 * times(1.0, 44_100))).astype(np.float32)
    facts = describe(samples, 44_100)
    assert facts.duration_s == 1.0
    assert facts.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert facts.rms_dbfs == pytest.approx(-9.03, abs=0.01)
    assert facts.clipping_ratio == 0.0
    assert facts.silence_ratio == 0.0
    assert facts.median_f0_hz == pytest.approx(441, rel=0.01)


def test_clipping_and_silence_are_shares() -> None:
    samples = np.concatenate([np.ones(441 * 20), np.zeros(441 * 60)]).astype(np.float32)
    facts = describe(samples, 44_100)
    assert facts.clipping_ratio == 0.25
    assert facts.silence_ratio == 0.75


def test_digital_silence_has_no_level() -> None:
    facts = describe(np.zeros(1_000, np.float32), 44_100)
    assert facts.peak_dbfs is None
    assert facts.rms_dbfs is None
    assert facts.silence_ratio == 1.0


def test_nothing_cannot_be_described() -> None:
    with pytest.raises(ValueError, match=r"\[S\]"):
        describe(np.zeros(0, np.float32), 44_100)
    with pytest.raises(ValueError, match=r"\[S\]"):
        describe(np.zeros((2, 10), np.float32), 44_100)


def test_the_facts_hardly_depend_on_the_sample_rate() -> None:
    samples = voice(150, 44_100)
    a, b = describe(samples, 44_100), describe(resample(samples, 44_100, 24_000), 24_000)
    assert a.rms_dbfs == pytest.approx(b.rms_dbfs, abs=0.2)
    assert a.median_f0_hz == pytest.approx(b.median_f0_hz, rel=0.01)
