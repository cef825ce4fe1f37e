"""A stranger's ear: pocketsphinx, a recognizer this project has no part in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import soxr
from pocketsphinx import Decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

EAR_RATE_HZ = 16_000
_PAUSE_SAMPLES = EAR_RATE_HZ // 4


def words_of(text: str) -> list[str]:
    """Split into the recognizer's words: lower case, no punctuation."""
    return re.sub(r"[^a-z' ]+", " ", text.lower().replace("-", " ")).split()


class SentencePicker:
    """Tell which of a closed set of sentences is spoken.

    Args:
        sentences: All that can be heard; their words must be in the recognizer's dictionary.
    """

    def __init__(self, sentences: list[str]) -> None:
        self._sentences = [" ".join(words_of(sentence)) for sentence in sentences]
        self._decoder = Decoder(samprate=EAR_RATE_HZ, cmn="batch", loglevel="FATAL", lm=None)
        choices = " | ".join(f"( {sentence} )" for sentence in self._sentences)
        self._decoder.add_jsgf_string(
            "closed", f"#JSGF V1.0;\ngrammar closed;\npublic <s> = {choices};\n"
        )
        self._decoder.activate_search("closed")

    def pick(self, samples: NDArray[np.float32], sample_rate: int) -> int | None:
        """Give the index of the sentence in ``[S]`` samples, or None when nothing is heard."""
        self._decoder.start_utt()
        self._decoder.process_raw(_for_the_ear(samples, sample_rate), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        if heard is None:
            return None
        plain = " ".join(re.sub(r"\(\d+\)", "", heard.hypstr).split())
        return self._sentences.index(plain) if plain in self._sentences else None


def _for_the_ear(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """16 kHz, even level, a quarter second of faint noise around: what the recognizer expects."""
    heard = soxr.resample(samples, sample_rate, EAR_RATE_HZ)
    heard = heard * (0.7 / max(float(np.abs(heard).max(initial=0.0)), 1e-6))
    padded = np.pad(heard, _PAUSE_SAMPLES)
    noise = np.random.default_rng(0).standard_normal(padded.size) * 2e-4
    return (np.clip(padded + noise, -1.0, 1.0) * 32767).astype("<i2").tobytes()
