"""What a marker does to the voice, as plain numbers.

A marker stands in parentheses before the sentence it colors: ``(shouting) Come here.``
``...``, ``(break)`` and ``(long-break)`` are silences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """Changes against the speaker's neutral voice.

    Attributes:
        pitch: factor on the pitch.
        tempo: factor on durations, above 1 is slower.
        gain_db: change of the active level.
        tilt_db: change of the level above 1 kHz against the level below.
        is_whispered: the voice is replaced by breath noise of the same spectrum.
        sighs: a sigh is breathed out before the sentence.
    """

    pitch: float = 1.0
    tempo: float = 1.0
    gain_db: float = 0.0
    tilt_db: float = 0.0
    is_whispered: bool = False
    sighs: bool = False


NEUTRAL = Effect()
MARKERS: dict[str, Effect] = {
    "whispering": Effect(tempo=1.08, gain_db=-6.0, tilt_db=2.0, is_whispered=True),
    "shouting": Effect(pitch=1.32, tempo=1.06, gain_db=7.0, tilt_db=5.0),
    "soft tone": Effect(pitch=0.95, tempo=1.12, gain_db=-8.0, tilt_db=-5.0),
    "in a hurry tone": Effect(pitch=1.04, tempo=0.66, gain_db=1.0),
    "sad": Effect(pitch=0.82, tempo=1.28, gain_db=-4.0, tilt_db=-3.0),
    "excited": Effect(pitch=1.26, tempo=0.84, gain_db=3.0, tilt_db=2.0),
    "angry": Effect(pitch=1.12, tempo=0.88, gain_db=5.0, tilt_db=7.0),
    "sighing": Effect(pitch=0.9, tempo=1.18, gain_db=-3.0, tilt_db=-2.0, sighs=True),
}
# Silences in seconds, lowest and highest.
PAUSES_S: dict[str, tuple[float, float]] = {
    "...": (0.55, 0.7),
    "(break)": (0.6, 0.7),
    "(long-break)": (1.1, 1.25),
}
