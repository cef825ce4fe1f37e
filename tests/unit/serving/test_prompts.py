"""How much of a prompt is expected to be read."""

from __future__ import annotations

import numpy as np

from backend.core.contract import Engine
from backend.core.types import CacheCounters, SynthesisRequest, Turn
from backend.serving.prompts import KnownPrompts, PromptShape
from tests.unit.serving.scripted_engine import ScriptedEngine


class CountingEngine(ScriptedEngine):
    """Counts as its test says."""

    misses, entries = 0, 0

    def cache_counters(self) -> dict[str, CacheCounters]:
        return {"prefix_kv": CacheCounters(0, self.misses, 0, self.entries, 0, 0)}


def turn(code: int, num_frames: int = 50) -> Turn:
    return Turn("abcdef", np.full((2, num_frames), code, dtype=np.int32))


def shape(*turns: Turn, text: str = "123456") -> PromptShape:
    return PromptShape.of(SynthesisRequest("a", text, turns))


def note(known: KnownPrompts, engine: CountingEngine, prompt: PromptShape, misses: int) -> int:
    engine.misses += misses
    engine.entries += misses
    return known.note([prompt])[0]


def test_a_known_voice_leaves_its_text_to_read():
    engine = CountingEngine()
    known = KnownPrompts(engine)
    assert known.num_read(shape(turn(1))) == 3 + 52
    assert note(known, engine, shape(turn(1)), misses=1) == 3 + 52
    assert known.num_read(shape(turn(1), text="123456789")) == 4
    assert known.num_read(shape(turn(2))) == 3 + 52
    assert known.num_read(shape(turn(1), turn(2))) == 3 + 52  # speech that goes on
    assert known.num_read(shape(turn(2), turn(1))) == 3 + 52 + 52
    assert note(known, engine, shape(turn(1)), misses=0) == 3


def test_what_the_engine_let_go_is_read_again():
    engine = CountingEngine()
    known = KnownPrompts(engine)
    note(known, engine, shape(turn(1)), misses=1)
    note(known, engine, shape(turn(2)), misses=1)
    engine.entries = 1  # its budget holds one of them
    note(known, engine, shape(turn(2)), misses=0)
    assert known.num_read(shape(turn(2))) == 3
    assert known.num_read(shape(turn(1))) == 3 + 52


def test_an_engine_that_keeps_nothing_reads_everything():
    engines: list[Engine] = [ScriptedEngine(), CountingEngine()]
    for engine in engines:
        known = KnownPrompts(engine)
        known.note([shape(turn(1))])
        assert known.num_read(shape(turn(1))) == 3 + 52


def test_prompts_that_are_read_together_are_counted_together():
    engine = CountingEngine()
    known = KnownPrompts(engine)
    note(known, engine, shape(turn(1)), misses=1)
    engine.misses, engine.entries = 2, 2
    assert known.note([shape(turn(1)), shape(turn(2))])[0] == 3 + (3 + 52)
    # one of the two was known no more, whichever it was
    engine.misses = 3
    assert known.note([shape(turn(1)), shape(turn(2))])[0] == 3 + 3 + 52
