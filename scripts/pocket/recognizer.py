"""A stranger's ear: pocketsphinx with the English model of its own wheel, offline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 16000
_SAME = {"okay": "ok"}


def spoken_words(text: str) -> list[str]:
    """The words of a text as the recognizer writes them; markers in parentheses are not spoken."""
    text = re.sub(r"\([^)]*\)", " ", text.lower().replace("-", " "))
    stripped = (word.strip("'") for word in re.sub(r"[^a-z' ]+", " ", text).split())
    return [_SAME.get(word, word) for word in stripped if word]


def word_errors(wanted: list[str], heard: list[str]) -> int:
    """Insertions, deletions and substitutions between two word lists."""
    row = list(range(len(heard) + 1))
    for i, want in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            diagonal, row[j] = (
                row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (want != word))
            )  # fmt: skip
    return row[-1]


def prepared(x: NDArray[np.float32]) -> NDArray[np.int16]:
    """Peak at 0.7 and a quarter second of faint noise around, as a microphone would give."""
    noise = np.random.default_rng(0).standard_normal(len(x) + 8000) * 2e-4
    peak = float(np.abs(x).max()) if len(x) else 0.0
    padded = np.pad(x.astype(np.float64) * (0.7 / max(peak, 1e-6)), 4000) + noise
    return (np.clip(padded, -1, 1) * 32767).astype(np.int16)


class Recognizer:
    """Hear what was said; one per process."""

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder: Any = pocketsphinx.Decoder(samprate=RATE_HZ, cmn="batch", loglevel="FATAL")

    def heard(self, x: NDArray[np.float32]) -> list[str]:
        """Words in 16 kHz samples."""
        self._decoder.start_utt()
        self._decoder.process_raw(prepared(x).tobytes(), full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        raw = re.sub(r"\(\d+\)|<[^>]*>|\[[^\]]*\]|\+\+\w+\+\+", " ", best.hypstr) if best else ""
        return spoken_words(raw)

    def errors(self, x: NDArray[np.float32], text: str) -> tuple[int, int]:
        """Word errors and words of a text in 16 kHz samples."""
        wanted = spoken_words(text)
        return word_errors(wanted, self.heard(x)), len(wanted)
