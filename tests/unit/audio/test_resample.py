from __future__ import annotations

import numpy as np
import pytest

from backend.audio.resample import StreamResampler, resample
from tests.unit.audio.media import snr_db, tone


def sine(rate_hz: int, f0_hz: float = 1_000.0, duration_s: float = 1.0) -> np.ndarray:
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    return np.sin(2 * np.pi * f0_hz * t).astype(np.float32)


@pytest.mark.parametrize("from_hz", [8_000, 16_000, 22_050, 44_100, 96_000])
@pytest.mark.parametrize("to_hz", [16_000, 24_000, 44_100, 48_000])
def test_a_sine_stays_the_same_sine(from_hz: int, to_hz: int) -> None:
    out = resample(sine(from_hz), from_hz, to_hz)
    assert out.dtype == np.float32
    assert abs(out.size - to_hz) <= 1
    edge = to_hz // 10
    expected = sine(to_hz)[: out.size]
    assert snr_db(expected[edge:-edge], out[: expected.size][edge:-edge]) > 80


def test_what_the_lower_rate_cannot_carry_is_taken_out() -> None:
    out = resample(sine(48_000, 11_000.0), 48_000, 16_000)
    assert np.abs(out[1_000:-1_000]).max() < 1e-3


def test_equal_rates_give_the_samples_themselves() -> None:
    samples = tone()
    assert resample(samples, 44_100, 44_100) is samples


def test_nothing_stays_nothing() -> None:
    assert resample(np.zeros(0, np.float32), 44_100, 48_000).size == 0
    stream = StreamResampler(44_100, 48_000)
    assert stream.feed(np.zeros(0, np.float32)).size == 0
    assert stream.finish().size == 0


@pytest.mark.parametrize("chunk", [1, 160, 2_048, 9_999])
@pytest.mark.parametrize("rates", [(44_100, 48_000), (96_000, 44_100), (44_100, 44_100)])
def test_chunks_joined_equal_the_whole(chunk: int, rates: tuple[int, int]) -> None:
    samples = tone(0.3)
    stream = StreamResampler(*rates)
    parts = [stream.feed(samples[at : at + chunk]) for at in range(0, samples.size, chunk)]
    joined = np.concatenate([*parts, stream.finish()])
    np.testing.assert_allclose(joined, resample(samples, *rates), atol=1e-6)


def test_a_stream_holds_back_less_than_50_ms() -> None:
    stream = StreamResampler(44_100, 48_000)
    fed = tone(0.2)
    assert stream.feed(fed).size / 48_000 > fed.size / 44_100 - 0.05
