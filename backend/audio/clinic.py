"""The clinic: look at a recording before its voice is copied, and say what would make it better.

What is wrong with a reference is heard in everything that is spoken with it, so it pays to tell
people at once. Nothing here changes the sound.

Signal-to-noise ratio. The power of 20 ms frames (10 ms apart) is measured. The noise power ``N`` is
the mean over the frames that lie within 3 dB of the 5th percentile: people pause, so the quietest
frames hold the room alone. A frame is active (speech) when its power is closer to the loud frames
than to the noise: above the point 40 % of the way, in dB, from ``N`` to the 95th percentile. With
``P`` the mean power of active frames the estimate is ``10 log10((P - N) / N)``, at most 60 dB. On
speech-like bursts in white noise it is within 2 dB from 10 to 30 dB. It cannot tell noise from a
voice that never pauses: where loud and quiet frames are less than 6 dB apart there is no estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.audio.decode import Recording

_Sample = TypeVar("_Sample", np.float32, np.bool_)

BEST_WINDOW_S = 10.0
LONG_S = 20.0
"""From here on a window to cut out is proposed."""
SHORT_S = 3.0
MAX_SNR_DB = 60.0

_HOP_S = 0.01
_QUIETEST_POWER = 1e-9  # -90 dBFS: digital silence, which says nothing about the room
_NOISE_PERCENTILE = 5.0
_LOUD_PERCENTILE = 95.0
_NOISE_BAND = 2.0  # 3 dB
_MIN_SPREAD_DB = 6.0
_ACTIVE_AT = 0.4
_SILENCE_DBFS = -60.0

_CLIP_LEVEL = 0.99  # below full scale, because resampling bends flat tops
_CLIPPED_HINT, _CLIPPED_WARN, _CLIPPED_REFUSE = 1e-4, 1e-3, 0.2
_NOISY_WARN_DB, _NOISY_HINT_DB = 12.0, 20.0
_QUIET_WARN_DBFS, _QUIET_HINT_DBFS = -45.0, -35.0
_SILENCE_WARN, _SILENCE_HINT = 0.7, 0.5
_NARROW_HZ = 5_000.0
_SPECTRUM_RANGE_DB = 55.0
_FFT_SIZE = 1024
_FFT_BATCH = 1024
_WINDOW_STEP_S = 0.1


class Severity(StrEnum):
    """How much a finding matters."""

    REFUSE = "refuse"
    """The recording cannot be used."""
    WARN = "warn"
    """The voice will suffer."""
    HINT = "hint"
    """It could be better."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was noticed.

    Attributes:
        severity: How much it matters.
        code: For programs: ``too_short``, ``clipping``, ...
        message: What it is and what to do about it.
    """

    severity: Severity
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a recording, in seconds from its start."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ClinicReport:
    """What was measured and what follows from it.

    Attributes:
        duration_s: Length.
        source_sample_rate: Of the upload, in Hz.
        peak_dbfs: Largest sample relative to full scale; -120 for digital silence.
        level_dbfs: Mean power of the speech relative to full scale; -120 for digital silence.
        clipping_ratio: Share of samples at full scale, 0..1.
        snr_db: Speech over noise, at most 60; None where nothing pauses.
        silence_ratio: Share of the time without speech, 0..1.
        bandwidth_hz: Up to here the sound has content.
        findings: Worst first.
        best_window: The best ten seconds of a long recording.
    """

    duration_s: float
    source_sample_rate: int
    peak_dbfs: float
    level_dbfs: float
    clipping_ratio: float
    snr_db: float | None
    silence_ratio: float
    bandwidth_hz: float
    findings: tuple[Finding, ...]
    best_window: Window | None

    @property
    def is_usable(self) -> bool:
        """Whether nothing speaks against using it."""
        return all(finding.severity is not Severity.REFUSE for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Loudness:
    """Power of frames. ``power`` and ``is_active`` are ``[N]``."""

    power: NDArray[np.float64]
    is_active: NDArray[np.bool_]
    speech_power: float
    snr_db: float | None


def examine(
    recording: Recording, *, min_duration_s: float = 1.0, max_duration_s: float = 90.0
) -> ClinicReport:
    """Examine a recording. Call it off the event loop.

    Args:
        recording: Decoded; its samples are not written to.
        min_duration_s: Shortest recording that can be used.
        max_duration_s: Longest recording that can be used.

    Raises:
        ValueError: There are no samples.
    """
    samples, rate = recording.samples, recording.sample_rate
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"samples must be [S] with S > 0, got {samples.shape}")
    loudness = _loudness(samples, rate)
    is_clipped = np.abs(samples) >= _CLIP_LEVEL
    report = ClinicReport(
        duration_s=recording.duration_s,
        source_sample_rate=recording.source.sample_rate,
        peak_dbfs=_decibels(float(np.abs(samples).max()) ** 2),
        level_dbfs=_decibels(loudness.speech_power),
        clipping_ratio=float(is_clipped.mean()),
        snr_db=loudness.snr_db,
        silence_ratio=float(1.0 - loudness.is_active.mean()),
        bandwidth_hz=min(_bandwidth_hz(samples, rate), recording.source.sample_rate / 2),
        findings=(),
        best_window=(
            _best_window(loudness, is_clipped, rate) if recording.duration_s >= LONG_S else None
        ),
    )
    order = list(Severity)
    findings = _findings(report, min_duration_s, max_duration_s)
    findings.sort(key=lambda finding: order.index(finding.severity))
    return replace(report, findings=tuple(findings))


def _loudness(samples: NDArray[np.float32], rate: int) -> _Loudness:
    power = _frame_power(samples, rate)
    heard = power[power > _QUIETEST_POWER]
    if heard.size == 0:
        return _Loudness(power, np.zeros(power.size, np.bool_), 0.0, None)
    floor = np.percentile(heard, _NOISE_PERCENTILE)
    noise = float(heard[heard <= floor * _NOISE_BAND].mean())
    loud = float(np.percentile(heard, _LOUD_PERCENTILE))
    spread_db = 10 * math.log10(loud / noise)
    threshold = 10 ** (_SILENCE_DBFS / 10)
    if spread_db >= _MIN_SPREAD_DB:
        threshold = max(threshold, noise * 10 ** (_ACTIVE_AT * spread_db / 10))
    is_active = power > threshold
    if not is_active.any():
        return _Loudness(power, is_active, float(heard.mean()), None)
    speech = float(power[is_active].mean())
    snr_db = None
    if spread_db >= _MIN_SPREAD_DB:
        snr_db = min(MAX_SNR_DB, 10 * math.log10((speech - noise) / noise))
    return _Loudness(power, is_active, speech, snr_db)


def _frame_power(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Give the power ``[N]`` of frames of 20 ms every 10 ms, each without its constant offset."""
    hops = _in_hops(samples, rate)
    if hops.shape[0] < 2:
        return np.array([np.var(samples, dtype=np.float64)])
    sums = hops.sum(axis=1, dtype=np.float64)
    squares: NDArray[np.float64] = np.einsum("ns,ns->n", hops, hops, dtype=np.float64)
    size = 2 * hops.shape[1]
    mean = (sums[:-1] + sums[1:]) / size
    return np.maximum(0.0, (squares[:-1] + squares[1:]) / size - mean**2)


def _in_hops(samples: NDArray[_Sample], rate: int) -> NDArray[_Sample]:
    """Give ``[S]`` as ``[N, 10 ms]`` without a copy; a rest at the end is left out."""
    hop = max(1, round(_HOP_S * rate))
    num_hops = samples.size // hop
    return samples[: num_hops * hop].reshape(num_hops, hop)


def _bandwidth_hz(samples: NDArray[np.float32], rate: int) -> float:
    """Give the highest frequency within 55 dB of the strongest, in the mean spectrum.

    The spectrum is smoothed over five bins, so that a lone tone (a whine, a pilot) does not count
    as content.
    """
    num_frames = max(1, samples.size // _FFT_SIZE)
    whole = np.pad(samples, (0, max(0, _FFT_SIZE - samples.size)))[: num_frames * _FFT_SIZE]
    frames = whole.reshape(num_frames, _FFT_SIZE)
    window = np.hanning(_FFT_SIZE)
    power = np.zeros(_FFT_SIZE // 2 + 1)
    for start in range(0, num_frames, _FFT_BATCH):
        spectra = np.fft.rfft(frames[start : start + _FFT_BATCH] * window, axis=1)
        power += (np.abs(spectra) ** 2).sum(axis=0)
    smooth = np.convolve(power, np.full(5, 0.2), mode="same")
    above = np.flatnonzero(smooth > smooth.max() * 10 ** (-_SPECTRUM_RANGE_DB / 10))
    return float(above[-1] * rate / _FFT_SIZE) if above.size else 0.0


def _best_window(loudness: _Loudness, is_clipped: NDArray[np.bool_], rate: int) -> Window | None:
    """Find the ten seconds with most speech, least clipping and pauses at both ends.

    Candidates start every 100 ms. The score is the share of active frames, less ten times the
    share of clipped samples, less 0.1 for each end that falls into speech.
    """
    size, step = round(BEST_WINDOW_S / _HOP_S), round(_WINDOW_STEP_S / _HOP_S)
    is_active = loudness.is_active
    starts = np.arange(0, is_active.size - size, step)
    if starts.size == 0:
        return None
    active = np.concatenate([[0], np.cumsum(is_active)])
    clipped = np.concatenate([[0.0], np.cumsum(_in_hops(is_clipped, rate).mean(axis=1))])
    score = (active[starts + size] - active[starts]) / size
    score -= 10.0 * (clipped[starts + size] - clipped[starts]) / size
    score -= 0.1 * is_active[starts] + 0.1 * is_active[starts + size]
    start_s = float(starts[int(np.argmax(score))] * _HOP_S)
    return Window(round(start_s, 2), round(start_s + BEST_WINDOW_S, 2))


def _findings(report: ClinicReport, min_duration_s: float, max_duration_s: float) -> list[Finding]:
    return [
        *_length_findings(report, min_duration_s, max_duration_s),
        *_level_findings(report),
        *_clipping_findings(report),
        *_noise_findings(report),
    ]


def _length_findings(
    report: ClinicReport, min_duration_s: float, max_duration_s: float
) -> list[Finding]:
    lasts = f"the recording lasts {report.duration_s:.1f} s"
    if report.duration_s < min_duration_s:
        needed = f"{min_duration_s:g} s are needed, 5 to 30 s are best"
        return [Finding(Severity.REFUSE, "too_short", f"{lasts}; at least {needed}")]
    if report.duration_s < SHORT_S:
        advice = "5 to 30 s give a better copy of the voice"
        return [Finding(Severity.WARN, "short", f"{lasts}; {advice}")]
    if report.best_window is None:
        return []
    window = report.best_window
    advice = f"its best ten seconds are {window.start_s:.1f} to {window.end_s:.1f} s"
    if report.duration_s > max_duration_s:
        limit = f"at most {max_duration_s:g} s are accepted"
        return [Finding(Severity.REFUSE, "too_long", f"{lasts}; {limit}, so cut it: {advice}")]
    return [Finding(Severity.HINT, "long", f"{lasts}; a shorter one speaks sooner: {advice}")]


def _level_findings(report: ClinicReport) -> list[Finding]:
    if report.peak_dbfs < _SILENCE_DBFS or report.silence_ratio >= 1.0:
        advice = "check the microphone and record again"
        return [Finding(Severity.REFUSE, "silent", f"the recording is silent; {advice}")]
    found: list[Finding] = []
    is_bad = report.level_dbfs < _QUIET_WARN_DBFS
    if is_bad or report.level_dbfs < _QUIET_HINT_DBFS:
        level = f"the speech is quiet ({report.level_dbfs:.0f} dBFS)"
        advice = "go nearer to the microphone or turn it up"
        severity = Severity.WARN if is_bad else Severity.HINT
        found.append(Finding(severity, "quiet", f"{level}; {advice}"))
    is_bad = report.silence_ratio > _SILENCE_WARN
    if is_bad or report.silence_ratio > _SILENCE_HINT:
        share = f"{report.silence_ratio:.0%} of the recording is without speech"
        severity = Severity.WARN if is_bad else Severity.HINT
        found.append(Finding(severity, "much_silence", f"{share}; cut the pauses out"))
    return found


def _clipping_findings(report: ClinicReport) -> list[Finding]:
    share = report.clipping_ratio
    if share < _CLIPPED_HINT:
        return []
    says = f"{share:.2%} of the samples are at full scale"
    if share >= _CLIPPED_REFUSE:
        advice = "the recording is overdriven beyond use; turn the input down and record again"
        return [Finding(Severity.REFUSE, "clipping", f"{says}; {advice}")]
    severity = Severity.WARN if share >= _CLIPPED_WARN else Severity.HINT
    advice = "turn the input down and record again"
    return [Finding(severity, "clipping", f"{says}: the loud parts are distorted; {advice}")]


def _noise_findings(report: ClinicReport) -> list[Finding]:
    found: list[Finding] = []
    snr_db = report.snr_db
    if snr_db is None and report.silence_ratio < 1.0:
        says = "the loudness never changes, so it may be music, noise or a tone rather than speech"
        found.append(Finding(Severity.WARN, "no_pauses", f"{says}; record one person talking"))
    elif snr_db is not None and snr_db < _NOISY_HINT_DB:
        is_bad = snr_db < _NOISY_WARN_DB
        says = f"the speech is only {snr_db:.0f} dB above the noise"
        advice = "the noise will be copied with the voice; record in a quiet room"
        severity = Severity.WARN if is_bad else Severity.HINT
        found.append(Finding(severity, "noisy", f"{says}; {advice}"))
    if report.bandwidth_hz < _NARROW_HZ:
        says = f"there is nothing above {report.bandwidth_hz / 1000:.1f} kHz, as over a telephone"
        advice = "use the original recording, or a better microphone"
        found.append(Finding(Severity.HINT, "narrow", f"{says}; {advice}"))
    return found


def _decibels(power: float) -> float:
    return 10 * math.log10(max(power, 1e-12))
