"""What the listeners ask for: texts that nobody spoke before, voices old and new."""

from __future__ import annotations

import io
import random
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORDING_RATE_HZ = 24_000
NAMED, REPEATED, NEW = "named", "repeated", "new"
"""Kinds of voices: built in; a recording that comes again and again; one never sent before."""

_WHO = ("the doctor", "my brother", "the old man", "her teacher", "a small bird", "the driver")
_DID = ("opened", "painted", "carried", "forgot", "found", "washed", "counted", "sold")
_WHAT = ("the letter", "a red door", "the winter coat", "seven books", "the kitchen table")
_WHERE = ("near the sea", "in the garden", "at the station", "on the bridge", "by the river")
_FORMANTS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        kind: ``NAMED``, ``REPEATED`` or ``NEW``.
        text: Unique.
        seed: Unique as well.
        voice: Name of a voice, for ``NAMED``; None takes the default one.
        recording: A WAV file, for the other kinds.
    """

    kind: str
    text: str
    seed: int
    voice: str | None = None
    recording: bytes | None = None


class Asks:
    """An endless row of requests, the same one for the same seed.

    Args:
        voices: Names to choose from; empty takes the model's default.
        new_share: Share of requests with a recording that was never sent before.
        repeated_share: Share of requests with one recording that is always the same.
        recording_s: Length of the recordings.
        seed: Of the row.
    """

    def __init__(
        self,
        voices: Sequence[str],
        *,
        new_share: float = 0.0,
        repeated_share: float = 0.0,
        recording_s: float = 10.0,
        seed: int = 1,
    ) -> None:
        self._voices = voices
        self._new_share = new_share
        self._repeated_share = repeated_share
        self._recording_s = recording_s
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - a row that can be repeated
        self._count = 0
        self._known = make_recording(seed, recording_s)

    def next(self) -> Ask:
        """Give the next request."""
        self._count += 1
        draw = self._random.random()
        text, seed = self._text(), self._count
        if draw < self._new_share:
            recording = make_recording(self._seed + self._count, self._recording_s)
            return Ask(NEW, text, seed, recording=recording)
        if draw < self._new_share + self._repeated_share:
            return Ask(REPEATED, text, seed, recording=self._known)
        voice = self._random.choice(self._voices) if self._voices else None
        return Ask(NAMED, text, seed, voice=voice)

    def _text(self) -> str:
        pick = self._random.choice
        return f"Number {self._count}: {pick(_WHO)} {pick(_DID)} {pick(_WHAT)} {pick(_WHERE)}."


def make_recording(seed: int, duration_s: float) -> bytes:
    """Make a WAV file that is no speech but has its shape: pitch, changing vowels, syllables.

    Args:
        seed: Decides the voice; every seed is another recording.
        duration_s: Seconds.
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * RECORDING_RATE_HZ)) / RECORDING_RATE_HZ
    f0_hz = rng.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 0.7) * time_s))
    phase = 2 * np.pi * np.cumsum(f0_hz) / RECORDING_RATE_HZ
    syllable = (time_s * rng.uniform(3.5, 5.5)).astype(int)
    formants_hz = np.asarray(_FORMANTS_HZ)[rng.integers(0, 4, syllable.max() + 1)][syllable]
    formants_hz = formants_hz * rng.uniform(0.9, 1.15)
    samples = np.zeros_like(time_s)
    for harmonic in range(1, 20):
        distance = (harmonic * f0_hz[:, None] - formants_hz) / 150
        samples += np.exp(-(distance**2)).sum(axis=1) * np.sin(harmonic * phase)
    envelope = 0.2 + 0.8 * np.abs(np.sin(np.pi * (time_s * 4.5 % 1)))
    samples = samples * envelope + 0.01 * rng.standard_normal(time_s.size)
    samples *= 0.5 / np.abs(samples).max()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RECORDING_RATE_HZ)
        out.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
