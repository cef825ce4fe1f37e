"""Effects: exact lengths, kept pitch, wanted loudness, the same on a stream as on the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.audio.effects import (
    PEAK_LIMIT,
    TARGET_LUFS,
    Effects,
    EffectsChain,
    apply_effects,
    integrated_lufs,
)
from backend.audio.pitch import median_f0_hz
from backend.core.errors import GenerationError, InvalidInputError

RATE_HZ = 22_050


def voiced(duration_s: float, f0_hz: float = 140.0, peak: float = 0.3) -> NDArray[np.float32]:
    """Give a buzz with a vowel's fall of overtones that swells and fades like syllables."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    overtones = sum(np.sin(2 * np.pi * f0_hz * n * time_s) / n**1.5 for n in range(1, 12))
    sound = overtones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))
    return (peak * sound / np.abs(sound).max()).astype(np.float32)


def streamed(
    samples: NDArray[np.float32], effects: Effects, sizes: tuple[int, ...]
) -> tuple[NDArray[np.float32], int]:
    """Feed pieces of the given sizes in turn; give what came out and the most ever held back."""
    chain, given, place, held, turn = EffectsChain(effects, RATE_HZ), [], 0, 0, 0
    while place < samples.size:
        size = sizes[turn % len(sizes)]
        given.append(chain.feed(samples[place : place + size]))
        place, turn = place + size, turn + 1
        out_s = sum(part.size for part in given) * effects.speed
        held = max(held, min(place, samples.size) - int(out_s))
    given.append(chain.finish())
    return np.concatenate(given), held


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
def test_speed_changes_the_length_exactly_and_keeps_the_pitch(speed: float):
    sound = voiced(3.0)
    faster = apply_effects(sound, RATE_HZ, Effects(speed=speed))
    assert faster.size == round(sound.size / speed)
    assert faster.dtype == np.float32
    before, after = median_f0_hz(sound, RATE_HZ), median_f0_hz(faster, RATE_HZ)
    assert before is not None
    assert after == pytest.approx(before, rel=0.03)
    loud = np.flatnonzero(np.abs(faster) > 0.01)
    assert (loud[-1] - loud[0]) / RATE_HZ == pytest.approx(3.0 / speed, rel=0.02)


@pytest.mark.parametrize(
    "effects",
    [
        Effects(speed=0.7),
        Effects(speed=1.6),
        Effects(volume_db=-7.5),
        Effects(volume_db=14.0),
        Effects(speed=1.3, volume_db=6.0),
    ],
)
def test_streamed_effects_equal_those_on_the_whole(effects: Effects):
    sound = voiced(2.0)
    whole = apply_effects(sound, RATE_HZ, effects)
    pieces, held = streamed(sound, effects, (1, 777, 4096, 0, 333))
    np.testing.assert_array_equal(pieces, whole)
    assert held < 0.5 * RATE_HZ


@pytest.mark.parametrize("level", [0.04, 0.3, 0.9])
def test_whole_file_gets_the_target_loudness(level: float):
    sound = voiced(4.0, peak=level)
    normal = apply_effects(sound, RATE_HZ, Effects(normalize=True))
    assert normal.size == sound.size
    assert integrated_lufs(normal, RATE_HZ) == pytest.approx(TARGET_LUFS, abs=0.5)
    assert np.abs(normal).max() <= PEAK_LIMIT + 1e-6


@pytest.mark.parametrize("level", [0.05, 0.9])
def test_stream_comes_to_the_target_loudness_with_little_delay(level: float):
    sound = voiced(4.0, peak=level)
    normal, held = streamed(sound, Effects(normalize=True), (2048,))
    assert normal.size == sound.size
    assert held < 0.6 * RATE_HZ
    assert integrated_lufs(normal, RATE_HZ) == pytest.approx(TARGET_LUFS, abs=1.0)
    assert np.abs(normal).max() <= PEAK_LIMIT + 1e-6


def test_stream_gain_does_not_depend_on_how_it_was_cut():
    sound = voiced(2.0)
    effects = Effects(normalize=True, volume_db=3.0)
    np.testing.assert_array_equal(
        streamed(sound, effects, (100, 5000))[0], streamed(sound, effects, (sound.size,))[0]
    )


def test_later_level_changes_are_followed_slowly():
    sound = np.concatenate([voiced(2.0, peak=0.1), voiced(2.0, peak=0.3)])  # below the limiter
    normal, _ = streamed(sound, Effects(normalize=True), (2048,))
    gain = np.abs(normal[sound != 0] / sound[sound != 0])
    window = RATE_HZ // 10
    smooth_db = 20 * np.log10(
        [np.median(gain[i : i + window]) for i in range(0, gain.size, window)]
    )
    assert np.abs(np.diff(smooth_db)).max() < 1.0  # 6 dB a second is 0.6 dB in 100 ms
    assert smooth_db[-1] < smooth_db[0] - 3


def test_loudness_agrees_with_the_reference_tone_of_the_standard():
    # EBU Tech 3341, case 1, on one channel of two: a 1 kHz sine at -20 dBFS is -23 LUFS there;
    # heard from both speakers it is 3 LU louder.
    time_s = np.arange(20 * 48_000) / 48_000
    sine = (0.1 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.float32)
    assert integrated_lufs(sine, 48_000) == pytest.approx(-20.0, abs=0.1)


def test_silence_and_very_short_sounds_keep_their_length_and_level():
    silence = np.zeros(RATE_HZ, np.float32)
    assert integrated_lufs(silence, RATE_HZ) is None
    short = voiced(0.2)
    for sound in (silence, short, short[:0]):
        for normal in (
            apply_effects(sound, RATE_HZ, Effects(normalize=True)),
            streamed(sound, Effects(normalize=True), (999,))[0],
        ):
            np.testing.assert_allclose(normal, sound, atol=1e-6)


def test_volume_is_in_decibels_and_limits_peaks():
    sound = voiced(1.0, peak=0.4)
    quieter = apply_effects(sound, RATE_HZ, Effects(volume_db=-6.0))
    np.testing.assert_allclose(quieter, sound * 10 ** (-6 / 20), rtol=1e-5)
    louder = apply_effects(sound, RATE_HZ, Effects(volume_db=6.0))
    np.testing.assert_allclose(louder, sound * 10 ** (6 / 20), rtol=1e-5, atol=1e-7)
    assert np.abs(apply_effects(sound, RATE_HZ, Effects(volume_db=20.0))).max() <= PEAK_LIMIT + 1e-6


def test_effects_that_are_off_change_nothing():
    sound = voiced(0.5)
    assert Effects().is_off
    assert apply_effects(sound, RATE_HZ, Effects()) is sound
    chain = EffectsChain(Effects(), RATE_HZ)
    assert chain.feed(sound) is sound
    assert chain.finish().size == 0


@pytest.mark.parametrize(
    "effects",
    [
        Effects(speed=0.4),
        Effects(speed=2.1),
        Effects(speed=math.nan),
        Effects(volume_db=21),
        Effects(volume_db=-math.inf),
    ],
)
def test_values_out_of_range_are_refused_by_name(effects: Effects):
    with pytest.raises(InvalidInputError, match=r"speed|volume"):
        effects.check()


def test_samples_that_are_not_numbers_are_refused():
    broken = np.array([0.0, np.nan], np.float32)
    with pytest.raises(GenerationError):
        EffectsChain(Effects(speed=1.5), RATE_HZ).feed(broken)
