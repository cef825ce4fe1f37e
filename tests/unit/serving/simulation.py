"""A room full of listeners in simulated time: what they hear when the engine costs what it costs.

The listeners keep their own books (they play in real time what has arrived), so what they report
does not depend on the scheduler's idea of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.core.contract import FrameChunk, StageTiming, StepResult
from backend.core.types import (
    AudioChunk,
    CacheCounters,
    EngineInfo,
    SamplingParams,
    SynthesisRequest,
    SynthesisSummary,
    Turn,
)
from backend.serving.limits import SchedulerLimits
from backend.serving.scheduler import Scheduler

FRAME_S = 0.0464
INFO = EngineInfo(
    model="simulated",
    revision="0",
    sample_rate=10000,
    frame_length=464,
    codebook_sizes=(2, 2),
    max_positions=4096,
    max_prompt_positions=2048,
    device="cpu",
    precision="fp32",
    sampling=SamplingParams(),
)
FRAME = np.zeros(2, dtype=np.int32)
SILENCE = np.zeros(0, dtype=np.float32)


@dataclass
class Clock:
    """Time that passes only when somebody works or waits."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Costs:
    """Milliseconds: a fixed part and one for each position, row, row of the codec, frame."""

    prefill: tuple[float, float] = (4.0, 0.05)
    step: tuple[float, float] = (6.0, 0.1)
    codec: tuple[float, float, float] = (2.0, 0.05, 0.15)


GPU = Costs()
CPU = Costs(prefill=(5.0, 0.4), step=(0.1, 2.5), codec=(0.2, 0.5, 1.2))
"""One row after another, as the plain engine does it."""


@dataclass
class SimulatedEngine:
    """An engine whose work takes simulated time. A text is the number of frames it becomes."""

    clock: Clock
    costs: Costs = GPU
    max_slots: int = 64
    is_timed: bool = True
    keeps_prompts: bool = False
    kept: set[tuple[str, int, int]] = field(default_factory=set)
    misses: int = 0
    info: EngineInfo = INFO
    left: dict[int, int] = field(default_factory=dict)
    calls: list[tuple[str, float]] = field(default_factory=list)

    def cache_counters(self) -> dict[str, CacheCounters]:
        return {"prefix_kv": CacheCounters(0, self.misses, 0, len(self.kept), 0, 0)}

    def clear_caches(self) -> dict[str, int]:
        return {}

    def _work(self, name: str, milliseconds: float) -> None:
        self.calls.append((name, self.clock.now))
        self.clock.now += milliseconds / 1000

    def warm_up(self) -> None: ...

    def warm_up_timings(self) -> list[StageTiming]:
        if not self.is_timed:
            return []
        call, row, frame = self.costs.codec
        read, position = self.costs.prefill
        step, step_row = self.costs.step
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= self.max_slots]
        steps = [StageTiming("decode_step", n, (step + step_row * n) / 1000) for n in sizes]
        codec = [StageTiming("decode_frames", n, (call + (row + frame) * n) / 1000) for n in sizes]
        prefills = [StageTiming("prefill", n, (read + position * n) / 1000) for n in (20, 240)]
        return [*steps, *codec, *prefills]

    def close(self) -> None: ...

    def memory_bytes(self) -> tuple[int | None, int | None]:
        return None, None

    def encode_reference(self, samples: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        raise NotImplementedError

    def open_slot(self) -> int:
        slot = min(set(range(self.max_slots)) - set(self.left))
        self.left[slot] = 0
        return slot

    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        positions = self._num_read(text, turns)
        self._work("prefill", self.costs.prefill[0] + self.costs.prefill[1] * positions)
        slot = self.open_slot()
        self.left[slot] = int(text)
        return slot

    def _num_read(self, text: str, turns: Sequence[Turn]) -> int:
        positions = 1 + len(text) // 3
        for idx, turn in enumerate(turns):
            key = (turn.text, turn.codes.shape[1], idx)
            if key in self.kept:
                continue
            if self.keeps_prompts:
                self.kept.add(key)
            self.misses += 1
            positions += turn.codes.shape[1]
        return positions

    def decode_step(self, slots: Sequence[int]) -> list[StepResult]:
        self._work("step", self.costs.step[0] + self.costs.step[1] * len(slots))
        return [self._frame(slot) for slot in slots]

    def _frame(self, slot: int) -> StepResult:
        if self.left[slot] == 0:
            return StepResult(slot, None)
        self.left[slot] -= 1
        return StepResult(slot, FRAME)

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[np.ndarray]:
        call, row, frame = self.costs.codec
        num_frames = sum(chunk.codes.shape[1] for chunk in chunks)
        self._work("codec", call + row * len(chunks) + frame * num_frames)
        return [SILENCE for _ in chunks]

    def release(self, slot: int) -> None:
        del self.left[slot]


@dataclass
class TogetherEngine(SimulatedEngine):
    """Runs several prompts in one call: the fixed part of the cost is paid once."""

    def prefill_many(
        self, asked: Sequence[tuple[str, Sequence[Turn], SamplingParams]]
    ) -> list[int]:
        positions = sum(self._num_read(text, turns) for text, turns, _ in asked)
        self._work("prefill", self.costs.prefill[0] + self.costs.prefill[1] * positions)
        slots: list[int] = []
        for text, _, _ in asked:
            slots.append(self.open_slot())
            self.left[slots[-1]] = int(text)
        return slots


@dataclass
class Player:
    """Plays at once and without a pause, as long as there is something.

    Attributes:
        takes: Whether it takes what is sent; one that does not keeps its credit used up.
    """

    scheduler: Scheduler
    clock: Clock
    name: str
    arrived_at: float
    takes: bool = True
    first_at: float | None = None
    dry_at: float = math.inf
    gaps: list[float] = field(default_factory=list)
    num_frames: int = 0
    summary: SynthesisSummary | None = None
    error: Exception | None = None

    def began(self) -> None: ...

    def audio(self, chunk: AudioChunk) -> None:
        now, frames = self.clock.now, chunk.codes.shape[1]
        if self.first_at is None:
            self.first_at = self.dry_at = now
        if now > self.dry_at:
            self.gaps.append(now - self.dry_at)
        self.dry_at = max(now, self.dry_at) + frames * FRAME_S
        self.num_frames += frames
        if self.takes:
            self.scheduler.grant(self.name)

    def finished(self, summary: SynthesisSummary) -> None:
        self.summary = summary

    def failed(self, error: Exception) -> None:
        self.error = error

    @property
    def ttfa_s(self) -> float:
        return math.inf if self.first_at is None else self.first_at - self.arrived_at

    @property
    def has_ended(self) -> bool:
        return self.summary is not None or self.error is not None


@dataclass(frozen=True)
class Arrival:
    """One request: when, how long, how long its voice's recording, heard or kept as a file."""

    at: float
    frames: int
    voice_frames: int = 0
    stream: bool = True
    takes: bool = True


@dataclass
class Room:
    """An engine, a scheduler and players. With ``is_timed`` the engine has measured itself."""

    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    costs: Costs = GPU
    max_slots: int = 64
    is_timed: bool = True
    keeps_prompts: bool = False
    reads_together: bool = False

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.engine = (TogetherEngine if self.reads_together else SimulatedEngine)(
            self.clock, self.costs, self.max_slots, self.is_timed, self.keeps_prompts
        )
        self.scheduler = Scheduler(self.engine, 32, 4, self.clock, self.limits)
        self.players: list[Player] = []

    def arrive(self, arrival: Arrival) -> Player:
        name = str(len(self.players))
        player = Player(self.scheduler, self.clock, name, arrival.at, arrival.takes)
        self.players.append(player)
        turn = Turn("", np.zeros((2, arrival.voice_frames), dtype=np.int32))
        text = str(arrival.frames).ljust(int(arrival.frames / 1.5))  # as long as it should be
        request = SynthesisRequest(name, text, (turn,), stream=arrival.stream)
        self.scheduler.submit(request, player)
        return player

    def play(self, arrivals: Sequence[Arrival], until: float = math.inf) -> list[Player]:
        """Let all arrive at their times and everything be spoken (or time run out)."""
        coming = sorted(arrivals, key=lambda arrival: arrival.at)
        start = len(self.players)
        while self.clock.now < until:
            while coming and coming[0].at <= self.clock.now:
                self.arrive(coming.pop(0))
            has_work, idle_s = self.scheduler.step(), self.scheduler.idle_s
            if has_work and idle_s is None:
                continue
            if not has_work and not coming:
                break
            next_at = coming[0].at if coming else math.inf
            if has_work and idle_s is not None:
                next_at = min(next_at, self.clock.now + max(idle_s, 1e-6))
            self.clock.now = max(self.clock.now, next_at)
        return self.players[start:]


def gaps(players: Sequence[Player]) -> int:
    """Count the times anybody ran dry."""
    return sum(len(player.gaps) for player in players)
