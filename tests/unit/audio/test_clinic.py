from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.audio.clinic import ClinicReport, Severity, examine
from backend.audio.decode import Recording, SourceInfo

RATE = 16_000
Samples = NDArray[np.float32]


@functools.cache
def _six_seconds(gap_share: float) -> Samples:
    """Give a whole number of all its periods, so that it can be repeated without a seam."""
    time_s = np.arange(6 * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * time_s + k * k) / k for k in range(1, 50))
    envelope = np.where(time_s % 0.6 / 0.6 < 1 - gap_share, 1.0, 0.0)
    sound = voice * envelope * (1.0 + 0.5 * np.sin(2 * np.pi * 5 * time_s))
    return (sound / np.sqrt(np.mean(sound[envelope > 0] ** 2))).astype(np.float32)


def bursts(duration_s: float, *, level: float = 0.1, gap_share: float = 0.3) -> Samples:
    """Speech-like sound: a harmonic voice in bursts of less than 0.6 s, with pauses."""
    return np.resize(_six_seconds(gap_share), round(duration_s * RATE)) * np.float32(level)


def with_noise(speech: Samples, snr_db: float, seed: int = 1) -> Samples:
    """Add white noise so far below the bursts."""
    level = np.sqrt(np.mean(speech[speech != 0].astype(np.float64) ** 2)) / 10 ** (snr_db / 20)
    noise = np.random.default_rng(seed).normal(0, level, speech.size)
    return (speech + noise).astype(np.float32)


def check(samples: Samples, source_rate: int = RATE) -> ClinicReport:
    source = SourceInfo("WAV", "PCM", source_rate, 1, samples.size / RATE)
    return examine(Recording(samples, RATE, source), min_duration_s=1.0, max_duration_s=90.0)


def codes(report: ClinicReport) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in report.findings}


@pytest.mark.parametrize("snr_db", [10.0, 20.0, 30.0])
@pytest.mark.parametrize("gap_share", [0.15, 0.3, 0.6])
def test_snr_of_known_mixtures_is_within_2_db(snr_db: float, gap_share: float):
    report = check(with_noise(bursts(8.0, gap_share=gap_share), snr_db))
    assert report.snr_db == pytest.approx(snr_db, abs=2.0)


def test_snr_of_colored_noise_is_within_3_db():
    speech = bursts(8.0)
    white = np.random.default_rng(3).normal(0, 1, speech.size + 200)
    brown = np.convolve(white, np.exp(-np.arange(200) / 30), mode="valid")[: speech.size]
    noise = brown / np.sqrt(np.mean(brown**2)) * 0.1 / 10 ** (20 / 20)
    assert check((speech + noise).astype(np.float32)).snr_db == pytest.approx(20, abs=3.0)


def test_digital_silence_between_words_is_not_taken_for_a_quiet_room():
    noisy = with_noise(bursts(6.0), 15.0)
    gated = np.concatenate([noisy, np.zeros(2 * RATE, np.float32)])
    assert check(gated).snr_db == pytest.approx(15, abs=2.5)


def test_clean_speech_has_a_large_snr_and_few_findings():
    report = check(with_noise(bursts(8.0), 45.0))
    assert report.snr_db is not None
    assert report.snr_db > 35
    assert report.is_usable
    assert report.findings == ()


def test_snr_never_passes_60_db():
    assert check(with_noise(bursts(4.0, level=0.3), 75.0)).snr_db == 60.0


def test_noisy_speech_is_warned_about_and_usable():
    report = check(with_noise(bursts(8.0), 8.0))
    assert codes(report)["noisy"] is Severity.WARN
    assert report.is_usable


def test_somewhat_noisy_speech_gets_a_hint():
    assert codes(check(with_noise(bursts(8.0), 16.0)))["noisy"] is Severity.HINT


def test_a_steady_tone_has_no_snr_and_is_doubted():
    tone = (0.3 * np.sin(np.arange(5 * RATE) * 0.3)).astype(np.float32)
    report = check(tone)
    assert report.snr_db is None
    assert codes(report)["no_pauses"] is Severity.WARN


def test_silence_is_refused():
    report = check(np.zeros(4 * RATE, np.float32))
    assert codes(report)["silent"] is Severity.REFUSE
    assert not report.is_usable
    assert report.silence_ratio == 1.0
    assert report.level_dbfs == report.peak_dbfs == -120.0


def test_too_short_is_refused_and_short_is_warned_about():
    assert codes(check(bursts(0.9)))["too_short"] is Severity.REFUSE
    assert codes(check(bursts(2.0)))["short"] is Severity.WARN


def test_one_sample_is_too_short_not_a_crash():
    assert codes(check(np.full(1, 0.5, np.float32)))["too_short"] is Severity.REFUSE


def test_no_samples_are_the_callers_mistake():
    with pytest.raises(ValueError, match="S > 0"):
        check(np.zeros(0, np.float32))


def test_too_long_is_refused_with_the_part_to_cut_out():
    report = check(with_noise(bursts(95.0), 30))
    assert codes(report)["too_long"] is Severity.REFUSE
    assert "ten seconds" in report.findings[0].message


@pytest.mark.parametrize(
    ("gain", "severity"), [(1.01, Severity.HINT), (3.0, Severity.WARN), (100.0, Severity.REFUSE)]
)
def test_clipping_is_graded(gain: float, severity: Severity):
    speech = bursts(6.0, level=0.2)
    speech *= gain / np.abs(speech).max()
    report = check(np.clip(speech, -1, 1))
    assert codes(report)["clipping"] is severity
    assert report.clipping_ratio == pytest.approx(np.mean(np.abs(speech) >= 0.99), abs=1e-9)


def test_loud_but_whole_speech_is_not_clipped():
    speech = bursts(6.0)
    assert "clipping" not in codes(check(speech * (0.95 / np.abs(speech).max())))


def test_level_is_that_of_the_speech_alone():
    report = check(with_noise(bursts(8.0, level=0.1, gap_share=0.5), 40))
    assert report.level_dbfs == pytest.approx(-20, abs=1.5)


@pytest.mark.parametrize(("level", "severity"), [(0.003, Severity.WARN), (0.01, Severity.HINT)])
def test_quiet_speech_is_noticed(level: float, severity: Severity):
    assert codes(check(with_noise(bursts(6.0, level=level), 30)))["quiet"] is severity


def test_share_of_silence_is_measured():
    report = check(with_noise(bursts(9.0, gap_share=0.4), 30))
    assert report.silence_ratio == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(("gap_share", "severity"), [(0.6, Severity.HINT), (0.8, Severity.WARN)])
def test_much_silence_is_noticed(gap_share: float, severity: Severity):
    report = check(with_noise(bursts(12.0, gap_share=gap_share), 30))
    assert codes(report)["much_silence"] is severity


def test_a_telephone_recording_is_told_by_its_bandwidth():
    speech = bursts(6.0)
    spectrum = np.fft.rfft(speech)
    spectrum[int(3400 / RATE * speech.size) :] = 0
    narrow = np.fft.irfft(spectrum, speech.size).astype(np.float32)
    report = check(narrow)
    assert report.bandwidth_hz == pytest.approx(3400, abs=150)
    assert codes(report)["narrow"] is Severity.HINT


def test_bandwidth_never_passes_half_the_source_rate():
    report = check(with_noise(bursts(4.0), 20), source_rate=8_000)
    assert report.bandwidth_hz <= 4_000
    assert report.source_sample_rate == 8_000


def test_the_best_ten_seconds_are_where_the_speech_is():
    silence = np.zeros(15 * RATE, np.float32)
    speech = bursts(12.0)
    samples = with_noise(np.concatenate([silence, speech, silence]), 35)
    window = check(samples).best_window
    assert window is not None
    assert 14.5 <= window.start_s <= 17.5
    assert window.end_s - window.start_s == pytest.approx(10.0)


def test_the_best_ten_seconds_avoid_clipping():
    good, bad = bursts(15.0, level=0.1), np.clip(bursts(15.0, level=3.0), -1, 1)
    window = check(with_noise(np.concatenate([bad, good]), 40)).best_window
    assert window is not None
    assert window.start_s >= 14.0


def test_the_best_ten_seconds_lie_inside_the_recording():
    for duration_s in (20.0, 20.05, 33.33):
        window = check(with_noise(bursts(duration_s), 30)).best_window
        assert window is not None
        assert 0 <= window.start_s < window.end_s <= duration_s


def test_short_recordings_have_no_best_part():
    assert check(bursts(8.0)).best_window is None


def test_findings_come_worst_first():
    report = check(np.clip(with_noise(bursts(2.0), 16) * 20, -1, 1))
    order = [list(Severity).index(finding.severity) for finding in report.findings]
    assert order == sorted(order)
    assert len(order) >= 2


def test_every_finding_says_what_to_do():
    recordings = [bursts(0.5), bursts(2.0), with_noise(bursts(25.0), 5), bursts(6.0, level=0.001)]
    for samples in recordings:
        for finding in check(samples).findings:
            assert len(finding.message) > 30
            assert any(mark in finding.message for mark in ";:,")


def test_a_constant_offset_is_no_noise():
    samples = with_noise(bursts(8.0), 30) + np.float32(0.2)
    assert check(samples).snr_db == pytest.approx(30, abs=2.5)


def test_samples_are_not_changed():
    samples = with_noise(bursts(21.0), 20)
    before = samples.copy()
    check(samples)
    assert np.array_equal(samples, before)
