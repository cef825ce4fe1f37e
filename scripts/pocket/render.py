"""A text with markers and a speaker become samples and phone labels."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scripts.pocket.dsp import Samples, resample_shaped, sigh, to_level, whispered
from scripts.pocket.markers import MARKERS, NEUTRAL, PAUSES_S, Effect
from scripts.pocket.speakers import Speaker, jittered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scripts.pocket.flite import Flite

RATE_HZ = 16000
LABEL_HOP = 160  # samples per phone label: 10 ms
_RMS_TRACT = (0.92, 1.32)
_SPLIT = re.compile(
    r"(\((?:" + "|".join(map(re.escape, MARKERS)) + r")\)|\.\.\.|\(break\)|\(long-break\))"
)


@dataclass(frozen=True)
class Utterance:
    """Rendered speech.

    Attributes:
        samples: ``[S]`` float32 at 16 kHz in -1..1.
        labels: ``[S / 160]`` uint8 phone ids, one every 10 ms; 0 is silence.
    """

    samples: Samples
    labels: NDArray[np.uint8]


class Renderer:
    """Speak texts in the voices of drawn speakers; one per process, as flite is."""

    def __init__(self, flite: Flite) -> None:
        self._flite = flite

    def render(self, text: str, speaker: Speaker, seed: int, jitter: bool = True) -> Utterance:
        """Speak a text whose markers stand in parentheses before the sentence they color.

        A marker holds until the next sentence begins. The same seed gives the same timing; the
        breath noise in flite's statistical voices goes on from call to call.

        Raises:
            ValueError: the text has nothing to say.
        """
        rng, noise = random.Random(seed), np.random.default_rng(seed)  # noqa: S311 - not a secret
        voice = jittered(speaker, rng) if jitter else speaker
        pieces: list[Utterance] = [_silence(rng.uniform(0.03, 0.10))]
        said = False
        for sentence, effect, pause_s in parse_markers(text, rng):
            if sentence:
                if said and not pause_s:
                    pieces.append(_silence(rng.uniform(0.12, 0.22)))
                if effect.sighs:
                    level_db = voice.level_db + effect.gain_db - 7
                    breath = sigh(RATE_HZ, level_db, noise)
                    pieces += [_unlabeled(breath), _silence(0.06)]
                pieces.append(self._sentence(sentence, voice, effect, noise))
                said = True
            if pause_s:
                pieces.append(_silence(pause_s))
        if not said:
            raise ValueError(f"nothing to say in {text!r}")
        pieces.append(_silence(rng.uniform(0.06, 0.16)))
        return Utterance(
            np.concatenate([p.samples for p in pieces]), np.concatenate([p.labels for p in pieces])
        )

    def _sentence(
        self, text: str, speaker: Speaker, effect: Effect, noise: np.random.Generator
    ) -> Utterance:
        tract, pitch = speaker.tract, speaker.pitch * effect.pitch
        if speaker.voice == "rms":  # deaf to pitch: the tract has to carry part of it
            tract = min(max(tract * effect.pitch**0.6, _RMS_TRACT[0]), _RMS_TRACT[1])
        speech = self._flite.say(
            text, speaker.voice, tract * speaker.tempo * effect.tempo, pitch, speaker.spread
        )
        start, stop = _speech_bounds(speech.phone_ids, speech.phone_ends_s, len(speech.samples))
        x = speech.samples[start:stop].astype(np.float32) / np.float32(32768)
        x = resample_shaped(x, tract, RATE_HZ, speaker.tilt_db + effect.tilt_db, speaker.bumps)
        if effect.is_whispered:
            x = whispered(x, noise)
        x = x[: len(x) - len(x) % LABEL_HOP]
        centers_s = (np.arange(len(x) // LABEL_HOP) + 0.5) * (LABEL_HOP / RATE_HZ) * tract
        phone = np.searchsorted(speech.phone_ends_s, centers_s + start / RATE_HZ)
        labels = np.append(speech.phone_ids, np.uint8(0))[np.minimum(phone, len(speech.phone_ids))]
        return Utterance(to_level(x, speaker.level_db + effect.gain_db), labels)


def parse_markers(text: str, rng: random.Random) -> list[tuple[str, Effect, float]]:
    """Split a text into (sentence, effect, pause after it in seconds).

    A marker's effect ends with its sentence: at the first ``.``, ``!`` or ``?`` that a space
    follows.
    """
    parts: list[tuple[str, Effect, float]] = []
    effect = NEUTRAL
    for token in _SPLIT.split(text):
        if token in PAUSES_S:
            sentence, old, _ = parts.pop() if parts else ("", effect, 0.0)
            parts.append((sentence, old, rng.uniform(*PAUSES_S[token])))
        elif token[1:-1] in MARKERS:
            effect = MARKERS[token[1:-1]]
        elif effect is NEUTRAL:
            parts += [(token.strip(), effect, 0.0)] if token.strip(" .,!?") else []
        else:
            first, rest = ([*re.split(r"(?<=[.!?]) ", token.strip(), maxsplit=1), ""])[:2]
            parts += [(part, e, 0.0) for part, e in ((first, effect), (rest, NEUTRAL)) if part]
            effect = NEUTRAL if rest or first.endswith((".", "!", "?")) else effect
    return parts


def _speech_bounds(
    ids: NDArray[np.uint8], ends_s: NDArray[np.float64], num_samples: int
) -> tuple[int, int]:
    """Where the speech lies, in samples, without flite's long silences at both ends."""
    spoken = np.flatnonzero(ids)
    if len(spoken) == 0:
        raise ValueError("the synthesizer said nothing")
    start_s = ends_s[spoken[0] - 1] if spoken[0] else 0.0
    start = max(0, int((start_s - 0.03) * RATE_HZ))
    return start, min(num_samples, int((ends_s[spoken[-1]] + 0.05) * RATE_HZ))


def _silence(seconds: float) -> Utterance:
    return _unlabeled(np.zeros(int(seconds * RATE_HZ), np.float32))


def _unlabeled(x: Samples) -> Utterance:
    x = x[: len(x) - len(x) % LABEL_HOP]
    return Utterance(x, np.zeros(len(x) // LABEL_HOP, np.uint8))


def neutral(speaker: Speaker) -> Speaker:
    """The speaker at the level that all built-in voices share."""
    return replace(speaker, level_db=-22.0)
