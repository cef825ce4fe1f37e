"""What an engine's stages take on this machine, measured once before anybody listens.

The scheduler's first forecasts rest on these figures: without them the first burst after a start
would be admitted blindly.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from backend.core.contract import FrameChunk, StageTiming
from backend.core.types import SamplingParams, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.contract import Engine, Stage

TEXT = "One, two, three: this is how long a sentence takes."
VOICE_FRAMES = 200
"""About 10 s of a voice."""
RAMP = (1, 2, 4, 8)
"""Frames of one stream in a codec call."""
REPEATS = 2
"""The cheaper of two runs counts: what is done for the first time is dearer."""
BUDGET_S = 1.5
"""A slow machine measures fewer sizes."""


class Rehearsal:
    """Measures an engine whose slots are all free, and leaves them free.

    Args:
        engine: Warmed up.
        clock: Seconds that only go forward.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._engine = engine
        self._clock = clock
        self._ends_at = clock() + BUDGET_S
        self._slots: list[int] = []
        self._timings: list[StageTiming] = []

    def run(self) -> tuple[StageTiming, ...]:
        """Measure steps and codec calls of rising size, and prompts on the way."""
        try:
            self._read_prompts()
            self._decode_ramp()
            rows = 1
            while self._has_time and rows <= self._engine.max_slots:
                self._fill_slots(rows)
                self._step()
                self._decode(1)
                self._decode(RAMP[-1])
                rows *= 2
        finally:
            for slot in self._slots:
                self._engine.release(slot)
        return tuple(self._timings)

    @property
    def _has_time(self) -> bool:
        return self._clock() < self._ends_at

    def _read_prompts(self) -> None:
        """Measure a short prompt and a voice that was never heard before."""
        num_frames = min(VOICE_FRAMES, self._engine.info.max_prompt_positions // 2)
        for repeat in range(REPEATS):
            self._prefill(())
            codes = np.full((self._engine.info.num_codebooks, num_frames), repeat, dtype=np.int32)
            self._prefill((Turn(TEXT, codes),))

    def _prefill(self, turns: tuple[Turn, ...]) -> None:
        size = self._engine.prompt_length(TEXT, turns)
        started = self._clock()
        slot = self._engine.prefill(TEXT, turns, SamplingParams())
        self._note("prefill", size, started)
        self._engine.release(slot)

    def _decode_ramp(self) -> None:
        self._fill_slots(1)
        for num_frames in RAMP:
            self._decode(num_frames)

    def _fill_slots(self, rows: int) -> None:
        while len(self._slots) < rows:
            self._slots.append(self._engine.prefill(TEXT, (), SamplingParams()))

    def _step(self) -> None:
        for _ in range(REPEATS):
            started = self._clock()
            self._engine.decode_step(self._slots)
            self._note("decode_step", len(self._slots), started)

    def _decode(self, num_frames: int) -> None:
        codes = np.zeros((self._engine.info.num_codebooks, num_frames), dtype=np.int32)
        chunks = [FrameChunk(slot, codes) for slot in self._slots]
        for _ in range(REPEATS):
            started = self._clock()
            self._engine.decode_frames(chunks)
            self._note("decode_frames", num_frames * len(chunks), started)

    def _note(self, stage: Stage, size: int, started: float) -> None:
        timing = StageTiming(stage, size, self._clock() - started)
        same = [t for t in self._timings if (t.stage, t.size) == (stage, size)]
        if all(timing.seconds < other.seconds for other in same):
            self._timings = [t for t in self._timings if t not in same]
            self._timings.append(timing)
