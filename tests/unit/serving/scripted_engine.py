"""An engine that does nothing but write down what it was asked, for tests of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.core.contract import FrameChunk, StepResult
from backend.core.types import (
    AudioChunk,
    CacheCounters,
    EngineInfo,
    SamplingParams,
    SynthesisSummary,
    Turn,
)

INFO = EngineInfo(
    model="scripted",
    revision="0",
    sample_rate=8000,
    frame_length=4,
    codebook_sizes=(100, 100),
    max_positions=1000,
    max_prompt_positions=500,
    device="cpu",
    precision="fp32",
    sampling=SamplingParams(),
)


@dataclass
class ScriptedEngine:
    """Frame ``i`` of a slot has code ``i`` everywhere, and sounds as its code.

    A text is the number of frames it takes to say; ``prefill`` of ``"!"`` fails, and so does the
    frame whose number is in ``fails_at``.
    """

    max_slots: int = 2
    fails_at: int | None = None
    log: list[str] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)
    count: dict[int, int] = field(default_factory=dict)
    info: EngineInfo = INFO

    def cache_counters(self) -> dict[str, CacheCounters]:
        return {}

    def clear_caches(self) -> dict[str, int]:
        return {}

    def warm_up(self) -> None:
        self.log.append("warm_up")

    def encode_reference(self, samples: np.ndarray) -> np.ndarray:
        return np.zeros((2, len(samples) // 4), dtype=np.int32)

    def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        return len(text)

    def open_slot(self) -> int:
        slot = min(set(range(self.max_slots)) - set(self.taken))
        self.taken[slot] = 0
        return slot

    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        self.log.append(f"prefill {text}")
        if text == "!":
            raise ZeroDivisionError("no such text")
        slot = self.open_slot()
        self.taken[slot] = int(text)
        self.count[slot] = 0
        return slot

    def decode_step(self, slots: Sequence[int]) -> list[StepResult]:
        self.log.append(f"step {' '.join(map(str, slots))}")
        return [self._frame(slot) for slot in slots]

    def _frame(self, slot: int) -> StepResult:
        idx = self.count[slot]
        if idx == self.fails_at:
            raise ZeroDivisionError("this frame is cursed")
        if idx == self.taken[slot]:
            return StepResult(slot, None)
        self.count[slot] += 1
        return StepResult(slot, np.full(2, idx, dtype=np.int32))

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[np.ndarray]:
        for chunk in chunks:
            self.log.append(f"decode {chunk.slot} x{chunk.codes.shape[1]}")
        return [np.repeat(chunk.codes[0], 4).astype(np.float32) for chunk in chunks]

    def release(self, slot: int) -> None:
        self.log.append(f"release {slot}")
        del self.taken[slot]

    def memory_bytes(self) -> tuple[int | None, int | None]:
        return None, None

    def close(self) -> None:
        self.log.append("close")
        self.taken.clear()


@dataclass
class Notebook:
    """A listener that writes down what it hears."""

    samples: list[float] = field(default_factory=list)
    chunk_frames: list[int] = field(default_factory=list)
    summary: SynthesisSummary | None = None
    error: Exception | None = None
    has_begun: bool = False

    def began(self) -> None:
        self.has_begun = True

    def audio(self, chunk: AudioChunk) -> None:
        self.samples += list(chunk.samples)
        self.chunk_frames.append(chunk.codes.shape[1])

    def finished(self, summary: SynthesisSummary) -> None:
        self.summary = summary

    def failed(self, error: Exception) -> None:
        self.error = error

    @property
    def has_ended(self) -> bool:
        return self.summary is not None or self.error is not None
