from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.audio.trim import LONGEST_HELD_S, MARGIN_S, SilenceTrim, trim_silence
from tests.conftest import tone

RATE_HZ = 8000
MARGIN = round(MARGIN_S * RATE_HZ)


def silence(duration_s: float) -> NDArray[np.float32]:
    return np.full(round(duration_s * RATE_HZ), 1e-3, np.float32)


def speech(duration_s: float = 0.5) -> NDArray[np.float32]:
    return np.abs(tone(duration_s, rate_hz=RATE_HZ)) + np.float32(0.01)  # loud from end to end


def streamed(samples: NDArray[np.float32], chunk: int) -> tuple[NDArray[np.float32], int]:
    trim = SilenceTrim(RATE_HZ)
    parts = [trim.feed(samples[at : at + chunk]) for at in range(0, samples.size, chunk)]
    return np.concatenate([*parts, trim.finish()]), trim.num_dropped


def test_silence_at_both_ends_goes_and_pauses_stay():
    inner = np.concatenate([speech(), silence(0.7), speech()])
    samples = np.concatenate([silence(1.0), inner, silence(2.0)])
    kept, num_dropped = trim_silence(samples, RATE_HZ)
    expected = np.concatenate([silence(MARGIN_S), inner, silence(MARGIN_S)])
    np.testing.assert_array_equal(kept, expected)
    assert num_dropped == samples.size - kept.size


def test_speech_without_silence_stays_as_it_is():
    kept, num_dropped = trim_silence(speech(), RATE_HZ)
    np.testing.assert_array_equal(kept, speech())
    assert num_dropped == 0


@pytest.mark.parametrize("chunk", [1, 37, 800, 5000])
def test_streamed_equals_whole(chunk: int):
    parts = [silence(0.3), speech(0.1), silence(0.25), speech(0.1), silence(0.4)]
    samples = np.concatenate(parts)
    whole, dropped = trim_silence(samples, RATE_HZ)
    piecewise, dropped_piecewise = streamed(samples, chunk)
    np.testing.assert_array_equal(piecewise, whole)
    assert dropped_piecewise == dropped > 0


def test_a_file_of_silence_keeps_a_little_of_it():
    kept, num_dropped = streamed(silence(1.0), 100)
    assert (kept.size, num_dropped) == (MARGIN, RATE_HZ - MARGIN)


def test_what_is_held_back_has_a_bound():
    trim = SilenceTrim(RATE_HZ)
    trim.feed(speech())
    given = sum(trim.feed(silence(1.0)).size for _ in range(30))
    assert given == (30 - LONGEST_HELD_S) * RATE_HZ


def test_nothing_fed_gives_nothing():
    kept, num_dropped = trim_silence(np.zeros(0, np.float32), RATE_HZ)
    assert (kept.size, num_dropped) == (0, 0)
