"""Judge takes on a CPU: a recognizer's errors, length, level and pitch, against other takes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.pocket.measure import measure_voice
from scripts.pocket.recognizer import Recognizer, spoken_words, word_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 95.0
SEMITONES = 12.0
HEAD = [
    *("setting", "same codes", "WER %", "apart (95 %)", "CER %", "length", "level dB", "pitch st"),
]


@dataclass(frozen=True, slots=True)
class Heard:
    """One text as it was heard.

    Attributes:
        word_errors: Of the recognizer.
        words: In the text.
        char_errors: Between both as letters and blanks.
        chars: In the text.
        duration_s: From the first sound to the last.
        level_db: Of the speech, in dBFS.
        pitch_hz: Median, 0 where nothing is voiced.
    """

    word_errors: int
    words: int
    char_errors: int
    chars: int
    duration_s: float
    level_db: float
    pitch_hz: float


_RECOGNIZER: list[Recognizer] = []


def hear(samples: NDArray[np.float32], text: str) -> Heard:
    """Listen to 16 kHz samples ``[S]`` of ``text``."""
    if not _RECOGNIZER:
        _RECOGNIZER.append(Recognizer())
    wanted, heard = spoken_words(text), _RECOGNIZER[0].heard(samples)
    letters, heard_letters = list(" ".join(wanted)), list(" ".join(heard))
    voice = measure_voice(samples)
    return Heard(
        word_errors(wanted, heard), len(wanted),
        word_errors(letters, heard_letters), len(letters),
        voice.duration_s, voice.level_db, voice.pitch_hz,
    )  # fmt: skip


def hear_all(
    samples: Sequence[NDArray[np.float32]], texts: Sequence[str], workers: int
) -> list[Heard]:
    """``hear`` for each, in other processes."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(hear, samples, texts, chunksize=4))


def rate(errors: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Errors in percent of what was to be said."""
    return float(100 * errors.sum() / sizes.sum())


def interval(
    errors: NDArray[np.float64], base: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[float, float]:
    """Where the difference of two error rates lies: a bootstrap over sentences, in points.

    Args:
        errors: Of each sentence.
        base: Of each sentence in the other takes.
        sizes: Words of each sentence.
    """
    draws = np.random.default_rng(0).integers(0, len(sizes), (RESAMPLES, len(sizes)))
    apart = 100 * (errors - base)[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.percentile(apart, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return float(low), float(high)


def compare(heard: Sequence[Heard], base: Sequence[Heard]) -> dict[str, Any]:
    """Figures of ``heard``, and how they differ from ``base``, sentence by sentence."""
    ours, theirs = _columns(heard), _columns(base)
    words, both = ours["words"], (ours["pitch_hz"] > 0) & (theirs["pitch_hz"] > 0)
    low, high = interval(ours["word_errors"], theirs["word_errors"], words)
    semitones = SEMITONES * np.log2(ours["pitch_hz"][both] / theirs["pitch_hz"][both])
    return {
        "sentences": len(heard),
        "words": int(words.sum()),
        "wer_percent": round(rate(ours["word_errors"], words), 2),
        "wer_apart": round(
            rate(ours["word_errors"], words) - rate(theirs["word_errors"], words), 2
        ),
        "wer_apart_95": [round(low, 2), round(high, 2)],
        "cer_percent": round(rate(ours["char_errors"], ours["chars"]), 2),
        "duration_ratio": round(float(ours["duration_s"].sum() / theirs["duration_s"].sum()), 4),
        "level_db_apart": round(float((ours["level_db"] - theirs["level_db"]).mean()), 2),
        "pitch_semitones_apart": round(float(semitones.mean()), 3),
        "pitch_semitones_off": round(float(np.median(np.abs(semitones))), 3),
    }


def _columns(heard: Sequence[Heard]) -> dict[str, NDArray[np.float64]]:
    rows = [asdict(each) for each in heard]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def as_table(figures: dict[str, dict[str, Any]]) -> str:
    """All settings as a table in Markdown."""
    rows = [_row(name, each) for name, each in figures.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [HEAD, ["---"] * len(HEAD), *rows])


def _row(name: str, each: dict[str, Any]) -> list[str]:
    low, high = each["wer_apart_95"]
    return [
        name,
        f"{each['same_codes']} of {each['sentences']}",
        f"{each['wer_percent']:.2f}",
        f"{each['wer_apart']:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{each['cer_percent']:.2f}",
        f"{each['duration_ratio']:.3f}",
        f"{each['level_db_apart']:+.2f}",
        f"{each['pitch_semitones_apart']:+.2f}",
    ]
