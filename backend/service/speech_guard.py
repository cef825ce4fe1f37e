"""Notice speech that has gone wrong while it is made: endless, stuck in a loop, or silent.

A language model of speech sometimes misses its end, and then babbles, repeats itself or says
nothing until a limit stops it. The guard looks at every frame once. It judges by wide margins,
because cutting good speech is worse than letting bad speech go on. Of 48 different sentences in six
voices of the pocket model none came nearer than 44 % of the limit of length, 10 % of that of loops
and 22 % of that of silence (``tests/integration/test_guarded_speech.py -m slow``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from backend.service.text import text_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.core.types import AudioChunk, EngineInfo

SLOWEST_WEIGHT_PER_S = 4.0
"""Nobody reads more slowly than a quarter of the usual 16 letters a second."""
EXTRA_S = 4.0
"""Pauses before, in and after."""
SPELLED_WEIGHT = 10
"""What a digit or a symbol may take when it is read out: a word, instead of one letter."""
MARKER_S = 4.0
"""What a marker such as ``(sighing)`` may take on its own."""
PAUSE_MARK_S = 1.0
"""What a full stop, a comma or a line break may take on its own."""

LOOP_S = 4.0
"""Codes that repeat exactly for so long are no speech ..."""
LONGEST_PERIOD_S = 1.0
"""... in loops of up to this length."""

SILENCE_RMS = 1e-3
"""-60 dBFS; below it nothing is heard."""
SILENCE_S = 4.0
"""Longest pause in speech; also the longest speech that may be all silence is none."""

_MARKER = re.compile(r"\([^()\n]{1,40}\)")
_PAUSE_MARK = re.compile(r"[.!?,;:…。！？、，；：\n—-]")  # noqa: RUF001
_DRAWN_OUT = re.compile(r"(.{1,24}?)\1{3,}", re.DOTALL)
_NO_LETTERS = re.compile(r"[\s.!?,;:'\"()-]+")


class Trouble(StrEnum):
    """What is wrong with a stretch of speech."""

    TOO_LONG = "too_long"
    """Far more frames than the text can need."""
    REPEATING = "repeating"
    """The same codes over and over."""
    SILENT = "silent"
    """Nothing is heard, for long or at all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Speech that went wrong.

    Attributes:
        trouble: What it is.
        good_frames: Frames of the stretch before it began.
    """

    trouble: Trouble
    good_frames: int


class SpeechGuard:
    """Watch one stretch of speech. The verdict does not depend on how it is cut into chunks.

    Life: ``watch`` for every chunk until there is a finding -> ``finish`` once at the end.

    Args:
        text: What is to be said.
        info: Of the engine.

    Attributes:
        num_frames: Frames seen.
        longest_loop: Most frames that repeated exactly so far.
        longest_silence: Most silent frames in a row so far.
    """

    def __init__(self, text: str, info: EngineInfo) -> None:
        rate = info.frame_rate
        self.max_frames = max_frames(text, rate)
        self.max_loop = round(LOOP_S * rate)
        self.max_silence = round((SILENCE_S + MARKER_S * len(_MARKER.findall(text))) * rate)
        self._watches_loops = not is_drawn_out(text)
        self._past: NDArray[np.int32] = np.full(round(LONGEST_PERIOD_S * rate), -1, np.int32)
        self._repeated: NDArray[np.int64] = np.zeros(self._past.size, np.int64)
        self._silent = 0
        self._heard = False
        self.num_frames = 0
        self.longest_loop = 0
        self.longest_silence = 0

    def watch(self, chunk: AudioChunk) -> Finding | None:
        """Look at the next frames; ``[K, F]`` codes and their ``F * frame_length`` samples."""
        levels = np.sqrt(np.square(chunk.samples.reshape(chunk.codes.shape[1], -1)).mean(axis=1))
        for code, level in zip(chunk.codes[0], levels, strict=True):
            finding = self._watch_frame(int(code), is_silent=bool(level < SILENCE_RMS))
            if finding is not None:
                return finding
        return None

    def finish(self) -> Finding | None:
        """Judge the whole stretch: one in which nothing was ever heard is no speech."""
        return None if self._heard or not self.num_frames else Finding(Trouble.SILENT, 0)

    def _watch_frame(self, code: int, *, is_silent: bool) -> Finding | None:
        self.num_frames += 1
        if self.num_frames > self.max_frames:
            return Finding(Trouble.TOO_LONG, self.max_frames)
        self._silent = self._silent + 1 if is_silent else 0
        self._heard = self._heard or not is_silent
        self.longest_silence = max(self.longest_silence, self._silent)
        if self._silent > self.max_silence:
            return Finding(Trouble.SILENT, self.num_frames - self._silent)
        # entry p - 1: for how many frames each has been the same as the one p frames before
        self._repeated = np.where(self._past == code, self._repeated + 1, 0)
        self._past[1:] = self._past[:-1]
        self._past[0] = code
        loop = int(self._repeated.max())
        # a pause repeats as well, and is judged as one
        self.longest_loop = max(self.longest_loop, 0 if is_silent else loop)
        if self._watches_loops and not is_silent and loop > self.max_loop:
            return Finding(Trouble.REPEATING, self.num_frames - loop)
        return None


def max_frames(text: str, frame_rate: float) -> int:
    """Give the most frames that a text can need: read very slowly, its numbers spelled out."""
    plain = _MARKER.sub(" ", text)
    spelled = sum(SPELLED_WEIGHT for char in plain if not char.isalpha() and not char.isspace())
    # marks of punctuation are pauses rather than words
    num_marks = len(_PAUSE_MARK.findall(plain))
    weight = text_weight(plain) + spelled - num_marks * SPELLED_WEIGHT
    pauses_s = EXTRA_S + MARKER_S * len(_MARKER.findall(text)) + PAUSE_MARK_S * num_marks
    return round((weight / SLOWEST_WEIGHT_PER_S + pauses_s) * frame_rate)


def is_drawn_out(text: str) -> bool:
    """Tell whether the text itself repeats (``Aaaaah``, ``no no no no``): its speech may too."""
    return _DRAWN_OUT.search(_NO_LETTERS.sub("", text.casefold())) is not None
