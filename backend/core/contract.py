"""The two contracts around the engine.

``Engine`` is synchronous and owned by one thread: a few verbs over sequences that hold a slot.
``EngineClient`` is what the API process sees: asynchronous, cancellable, safe from the event loop.
Both have a fake in ``tests/fakes.py``, so that everything above runs without weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.types import (
        AudioChunk,
        CacheCounters,
        EngineInfo,
        EngineStatus,
        SamplingParams,
        SynthesisRequest,
        SynthesisSummary,
        Turn,
    )


@dataclass(frozen=True, slots=True)
class StepResult:
    """One frame of one slot.

    Attributes:
        slot: Whose frame it is.
        codes: ``[K]`` int32, or None when the sequence is over.
        hit_limit: With None: a limit ended it (``max_new_tokens``, positions), not the model.
    """

    slot: int
    codes: NDArray[np.int32] | None
    hit_limit: bool = False


@dataclass(frozen=True, slots=True)
class FrameChunk:
    """The next frames of one slot, on their way to sound.

    Attributes:
        slot: Whose frames they are.
        codes: ``[K, F]`` int32, F > 0.
    """

    slot: int
    codes: NDArray[np.int32]


class Engine(Protocol):
    """The stages on one device. Every call comes from the one thread that owns it.

    A slot is the room of one sequence: its keys and values, its noise, its codec state.
    ``prefill`` takes one, ``release`` gives it back; nothing else does.
    """

    @property
    def info(self) -> EngineInfo:
        """Facts that do not change."""
        ...

    @property
    def max_slots(self) -> int:
        """Sequences that can be held at once."""
        ...

    def warm_up(self) -> None:
        """Run every stage once, so that the first request does not pay for first calls."""
        ...

    def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` samples into codes ``[K, F]``, ``F = ceil(S / frame_length)``."""
        ...

    def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """Positions that a prompt of ``turns`` and then ``text`` takes."""
        ...

    def open_slot(self) -> int:
        """Take a slot for codec work alone (codes that are known already)."""
        ...

    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        """Take a slot and run the prompt through the slow transformer.

        Returns:
            The slot; its first frame comes with the next ``decode_step``.

        Raises:
            PromptTooLongError: The prompt leaves no room for speech.
        """
        ...

    def decode_step(self, slots: Sequence[int]) -> list[StepResult]:
        """Make one frame for each of ``slots``, in their order."""
        ...

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[NDArray[np.float32]]:
        """Turn the next frames of several slots, one chunk a slot, into samples.

        Joined over calls a slot's samples equal those of one call over all its frames, whatever
        other slots are decoded with them.

        Returns:
            ``[F * frame_length]`` float32 for each chunk, in their order.
        """
        ...

    def release(self, slot: int) -> None:
        """Give a slot back."""
        ...

    def memory_bytes(self) -> tuple[int | None, int | None]:
        """Device memory now and at its peak, or None where the device does not tell."""
        ...

    def cache_counters(self) -> dict[str, CacheCounters]:
        """What the engine's own caches hold and have done, by name."""
        ...

    def clear_caches(self) -> dict[str, int]:
        """Empty the engine's own caches; gives the entries dropped, by name."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class FramesInWork(Protocol):
    """What ``OverlappingEngine.begin_frames`` began."""

    @property
    def is_ready(self) -> bool:
        """Whether ``collect`` would return at once. Does not wait."""
        ...

    @property
    def seconds(self) -> float:
        """What the device took for it, once it is collected."""
        ...

    def collect(self) -> list[NDArray[np.float32]]:
        """Wait for the samples and give them, as ``Engine.decode_frames`` does."""
        ...


@runtime_checkable
class OverlappingEngine(Protocol):
    """An engine whose codec can work beside its other stages."""

    def decodes_beside(self, num_rows: int) -> bool:
        """Whether anything is gained by that while steps have ``num_rows`` rows."""
        ...

    def begin_frames(self, chunks: Sequence[FrameChunk]) -> FramesInWork:
        """Begin what ``Engine.decode_frames`` does and return; every verb may be called meanwhile.

        A slot may be released before the samples are collected; they are worthless then.
        """
        ...


Stage: TypeAlias = Literal["prefill", "decode_step", "decode_frames"]
"""Verbs of an engine that are timed."""


@dataclass(frozen=True, slots=True)
class StageTiming:
    """What one call took.

    Attributes:
        stage: Which verb.
        size: Positions of ``prefill``, rows of ``decode_step``, frames of ``decode_frames`` with
            all rows together.
        seconds: Until the result was there.
    """

    stage: Stage
    size: int
    seconds: float


@runtime_checkable
class TimedEngine(Protocol):
    """An engine that measures itself in ``warm_up``, so that the first forecasts are no guesses."""

    def warm_up_timings(self) -> Sequence[StageTiming]:
        """Give what calls of several sizes took once they were warm."""
        ...


@runtime_checkable
class BatchingEngine(Protocol):
    """An engine that runs several prompts faster together than one after another."""

    def prefill_many(
        self, asked: Sequence[tuple[str, Sequence[Turn], SamplingParams]]
    ) -> list[int]:
        """Take slots for several prompts and run them, as ``Engine.prefill`` does for each.

        Raises:
            PromptTooLongError: A prompt leaves too little room for speech; no slot is taken.
        """
        ...


@runtime_checkable
class PreparingEngine(Protocol):
    """An engine that puts some of its preparation off until nobody waits for it."""

    def prepare_one(self) -> bool:
        """Do one piece of it, less than a second long; False when there is none left."""
        ...


class EngineClient(Protocol):
    """The engine as the API process sees it. All calls come from the event loop's thread."""

    async def start(self) -> None:
        """Begin to load; returns at once. ``status`` tells how it goes."""
        ...

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine can serve.

        Raises:
            EngineUnavailableError: It failed to start; the message says why.
        """
        ...

    @property
    def info(self) -> EngineInfo | None:
        """Facts about the engine once it is ready."""
        ...

    def status(self) -> EngineStatus:
        """The engine as it is now. Never blocks."""
        ...

    async def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """As ``Engine.encode_reference``."""
        ...

    async def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """As ``Engine.prompt_length``."""
        ...

    async def clear_caches(self) -> dict[str, int]:
        """As ``Engine.clear_caches``."""
        ...

    def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Yield audio as it is made, then one summary.

        Closing the generator cancels the request and frees its slot within one step.

        Raises:
            QueueFullError: Too many requests are waiting.
            OverloadedError: The engine could not keep up with one more stream.
            DeadlineExceededError: It took too long, before or after the first audio.
            EngineUnavailableError: The engine is not there.
            GenerationError: The engine failed while it worked.
        """
        ...

    async def close(self) -> None:
        """Stop the engine; unfinished requests end with ``ServiceClosedError``."""
        ...
