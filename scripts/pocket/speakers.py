"""Speakers: one of flite's voices with its vocal tract, pitch, tempo, timbre and level changed.

The ranges are those in which a speech recognizer still understands the synthesizer well.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Speaker:
    """A voice of the synthesizer and what is changed about it.

    Attributes:
        voice: flite's name of the voice.
        tract: factor on all formants, above 1 is a shorter vocal tract. The utterance is
            synthesized slower by this factor and played faster by it.
        pitch: factor on the pitch, on top of ``tract``; ``rms`` ignores it.
        tempo: factor on durations.
        spread: factor on the pitch range.
        tilt_db: level above 1 kHz against below.
        bumps: two broad resonances, each (center in Hz, gain in dB).
        level_db: active level in dBFS.
    """

    voice: str
    tract: float
    pitch: float = 1.0
    tempo: float = 1.0
    spread: float = 1.0
    tilt_db: float = 0.0
    bumps: tuple[tuple[float, float], ...] = ()
    level_db: float = -22.0

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BuiltInVoice:
    """A speaker with a name, as the shipped voice files describe it."""

    name: str
    description: str
    speaker: Speaker


BUILT_IN_VOICES: tuple[BuiltInVoice, ...] = (
    BuiltInVoice("ross", "a man, calm and clear", Speaker("rms", 1.08)),
    BuiltInVoice("stella", "a woman, warm", Speaker("slt", 0.92)),
    BuiltInVoice("angus", "a Scottish man", Speaker("awb", 1.0)),
    BuiltInVoice("kit", "a man, flat like an old computer", Speaker("kal16", 1.08, 1.12)),
    BuiltInVoice("robin", "a light, high voice", Speaker("awb", 1.1, 1.35)),
    BuiltInVoice("bruno", "a deep man", Speaker("kal16", 1.04, 0.86, 1.05)),
    BuiltInVoice("sally", "a bright woman", Speaker("slt", 0.97, 1.25, tilt_db=3.0)),
    BuiltInVoice("selma", "a low, dark voice", Speaker("slt", 0.84, 0.76, tilt_db=-1.0)),
    BuiltInVoice("grant", "a big man, slow", Speaker("rms", 0.95, tempo=1.08, tilt_db=-3.0)),
    BuiltInVoice("pip", "a small, quick voice", Speaker("rms", 1.24, tempo=0.95, tilt_db=2.0)),
)
DEFAULT_SPEAKER = 0


@dataclass(frozen=True)
class _Range:
    tract: tuple[float, float]
    pitch: tuple[float, float]
    weight: float


_RANGES: dict[str, _Range] = {
    "rms": _Range((0.94, 1.27), (1.0, 1.0), 0.27),
    "slt": _Range((0.82, 0.99), (0.70, 1.32), 0.33),
    "kal16": _Range((0.97, 1.20), (0.82, 1.90), 0.16),
    "awb": _Range((0.95, 1.16), (0.75, 1.50), 0.24),
}


def draw_speakers(count: int, seed: int) -> list[Speaker]:
    """The built-in voices first, then speakers drawn at random; the same seed gives the same."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    drawn = [_draw(rng) for _ in range(max(0, count - len(BUILT_IN_VOICES)))]
    return [voice.speaker for voice in BUILT_IN_VOICES][:count] + drawn


def _draw(rng: random.Random) -> Speaker:
    voice = rng.choices(list(_RANGES), [r.weight for r in _RANGES.values()])[0]
    limits = _RANGES[voice]
    tract = rng.uniform(*limits.tract)
    low, high = limits.pitch
    # A short vocal tract seldom goes with a low voice: 30 % of the pitch follows the tract.
    place = (tract - limits.tract[0]) / (limits.tract[1] - limits.tract[0])
    free = math.exp(rng.uniform(math.log(low), math.log(high)))
    bumps = tuple(
        (round(math.exp(rng.uniform(math.log(lo), math.log(hi)))), round(rng.uniform(-4, 4), 1))
        for lo, hi in ((250, 900), (900, 3500))
    )
    return Speaker(
        voice=voice,
        tract=round(tract, 3),
        pitch=round(0.7 * free + 0.3 * (low + (high - low) * place), 3),
        tempo=round(rng.uniform(0.88, 1.15), 3),
        spread=round(rng.uniform(0.7, 1.5), 2),
        tilt_db=round(rng.uniform(-5, 5), 1),
        bumps=bumps,
        level_db=round(rng.uniform(-27, -20), 1),
    )


def jittered(speaker: Speaker, rng: random.Random) -> Speaker:
    """The speaker as he is on one occasion: tempo, pitch and level vary a little."""
    return replace(
        speaker,
        pitch=speaker.pitch * rng.uniform(0.98, 1.02),
        tempo=speaker.tempo * rng.uniform(0.96, 1.04),
        level_db=speaker.level_db + rng.uniform(-0.7, 0.7),
    )
