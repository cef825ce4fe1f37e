"""The guard leaves good speech alone: nothing that the pocket voice says is cut.

The short run is part of the suite; the long one (``-m slow``) speaks everything in several voices.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.core.contract import FrameChunk
from backend.core.settings import read_settings
from backend.core.types import AudioChunk, Turn
from backend.opt_engine import OptimizedEngine
from backend.service.emotions import POCKET_MARKERS
from backend.service.speech_guard import SpeechGuard
from backend.service.text import split_text
from backend.service.voices import VoiceLibrary

POCKET = Path(__file__).parents[2] / "backend" / "pocket"
VOICES = ("kit", "ross", "sally", "stella", "angus", "bruno")
CHUNK_FRAMES = 16

SENTENCES = (
    "Hi.", "Yes!", "No?", "Hello", "Stop!", "Why?", "Seven.", "Wonderful.",
    "Good morning.", "Thank you very much.", "See you later, my friend.",
    "One, two, three.", "It costs 20 dollars.", "The year was 1984.", "Call 555 0199 now.",
    "Room 12, floor 3, at 9:30.", "Pi is about 3.14159.", "That is 100 % right!",
    "My number is 1 2 3 4 5 6 7 8 9 0.",
    "The quick brown fox jumps over the lazy dog.",
    "Please close the window before you leave the house.",
    "The train to the city leaves at nine, and it will be cold and windy.",
    "We walked along the river until the sun went down.",
    "Wait... what was that?", "Well, well, well; look who came home!",
    "She said: \"I will be there at noon,\" and left.",
    "Nobody - not even the teacher - knew the answer.",
    "My brother bought a new car last week, but he sold it again on Sunday, because it was too "
    "small for the dog, the bicycle, and the seven bags that he always takes along.",
    "When the rain had stopped and the street was dry again, the children came out of the houses, "
    "the old man opened his shop, and a small bird was singing on the wall of the garden.",
    "The doctor told him to drink more water, to sleep eight hours, to walk along the river every "
    "morning, and to forget the letter that had come from the city in the spring.",
    "Is it far? No. Is it cold? A little. Shall we go? Yes, let us go now.",
    "Dr. Smith lives on Main St. near the old bridge.",
    "no no no no no no no no", "Ha ha ha ha ha ha ha!", "Aaaaah!", "Hmm.",
    "A.", "B, C, and D.", "OK", "THIS IS VERY IMPORTANT.",
    *(f"({name}) The old bridge was closed for three months." for name in sorted(POCKET_MARKERS)),
)  # fmt: skip
SHORT_RUN = ("Hi.", "OK", "Call 555 0199 now.", "Wait... what was that?", SENTENCES[27])


@pytest.fixture(scope="module")
def engine() -> Iterator[OptimizedEngine]:
    engine = OptimizedEngine.load(read_settings(None, device="cpu", cpu_threads=1), POCKET)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def library(engine: OptimizedEngine) -> VoiceLibrary:
    return VoiceLibrary.load(POCKET, engine.info)


def guard_after(engine: OptimizedEngine, text: str, turn: Turn) -> SpeechGuard:
    """Speak a text to its end under a guard, which must find nothing."""
    guard = SpeechGuard(text, engine.info)
    slot = engine.prefill(text, [turn], engine.info.sampling)
    is_over, frames = False, []
    while not is_over:
        [result] = engine.decode_step([slot])
        is_over = result.codes is None
        if result.codes is not None:
            frames.append(result.codes)
        if frames and (is_over or len(frames) == CHUNK_FRAMES):
            chunk = FrameChunk(slot, np.stack(frames, axis=1))
            [samples] = engine.decode_frames([chunk])
            finding = guard.watch(AudioChunk(samples, chunk.codes))
            assert finding is None, (text, finding)
            frames = []
    engine.release(slot)
    assert guard.num_frames, text
    assert guard.finish() is None, text
    return guard


def test_nothing_is_cut(engine: OptimizedEngine, library: VoiceLibrary):
    for idx, text in enumerate(SHORT_RUN):
        guard_after(engine, text, library.find(VOICES[idx]).turn)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_nothing_is_cut_in_a_long_run(engine: OptimizedEngine, library: VoiceLibrary):
    assert len(SENTENCES) >= 40
    nearest = {"length": (0.0, ""), "loop": (0.0, ""), "silence": (0.0, "")}
    for idx, sentence in enumerate(SENTENCES):
        for text in split_text(sentence):
            voice = VOICES[idx % len(VOICES)]
            guard = guard_after(engine, text, library.find(voice).turn)
            seen = {
                "length": guard.num_frames / guard.max_frames,
                "loop": guard.longest_loop / guard.max_loop,
                "silence": guard.longest_silence / guard.max_silence,
            }
            for name, share in seen.items():
                nearest[name] = max(nearest[name], (share, text))
    assert all(share < 0.5 for share, _ in nearest.values()), nearest
