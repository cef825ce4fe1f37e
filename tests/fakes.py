"""Engines without weights: every frame becomes a known sine.

``FakeEngine`` stands where a model would, below the scheduler. ``FakeEngineClient`` stands where
the whole engine would, below the service. Both are driven by events, so no test has to sleep.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.core.contract import FrameChunk, StepResult
from backend.core.errors import (
    EngineUnavailableError,
    GenerationError,
    PromptTooLongError,
    QueueFullError,
    ServiceClosedError,
)
from backend.core.types import (
    AudioChunk,
    CacheCounters,
    EngineInfo,
    EngineState,
    EngineStatus,
    FinishReason,
    SamplingParams,
    SynthesisRequest,
    SynthesisSummary,
    Turn,
)

FAKE_INFO = EngineInfo(
    model="fake",
    revision="fake-1",
    sample_rate=16_000,
    frame_length=320,
    codebook_sizes=(64, 16, 16),
    max_positions=8192,
    max_prompt_positions=4096,
    device="cpu",
    precision="fp32",
    sampling=SamplingParams(),
)

FRAMES_PER_CHARACTER = 2


def fake_codes(
    text: str, turns: Sequence[Turn], sampling: SamplingParams, info: EngineInfo = FAKE_INFO
) -> NDArray[np.int32]:
    """Give the ``[K, F]`` codes a fake engine speaks: fixed by text, turns and every parameter."""
    digest = hashlib.sha256(repr((text, astuple(sampling))).encode())
    for turn in turns:
        digest.update(turn.text.encode() + turn.codes.tobytes())
    rng = np.random.default_rng(int.from_bytes(digest.digest()[:8], "little"))
    num_frames = max(FRAMES_PER_CHARACTER * len(text), sampling.min_new_tokens)
    sizes = np.asarray(info.codebook_sizes)[:, None]
    return rng.integers(0, sizes, (info.num_codebooks, num_frames)).astype(np.int32)


def fake_samples(codes: NDArray[np.int32], info: EngineInfo = FAKE_INFO) -> NDArray[np.float32]:
    """Turn ``[K, F]`` codes into sines: ``1 + semantic code`` whole periods in each frame."""
    phase = np.arange(info.frame_length) / info.frame_length
    periods = 1 + codes[0].astype(np.float64)
    sines = 0.5 * np.sin(2 * np.pi * periods[:, None] * phase[None, :])
    return sines.astype(np.float32).reshape(-1)


def fake_reference_codes(
    samples: NDArray[np.float32], info: EngineInfo = FAKE_INFO
) -> NDArray[np.int32]:
    """Turn ``[S]`` samples into codes ``[K, ceil(S / frame_length)]`` that depend on them."""
    num_frames = -(-samples.size // info.frame_length)
    padded = np.zeros(num_frames * info.frame_length, np.float32)
    padded[: samples.size] = samples
    level = np.abs(padded.reshape(num_frames, info.frame_length)).mean(axis=1)
    rows = [(level * 1000).astype(np.int64) % size for size in info.codebook_sizes]
    return np.stack(rows).astype(np.int32)


def fake_prompt_length(text: str, turns: Sequence[Turn]) -> int:
    """One position for each character and frame, and one for each turn."""
    return len(text) + 1 + sum(len(turn.text) + 1 + turn.codes.shape[1] for turn in turns)


@dataclass
class _Slot:
    codes: NDArray[np.int32] | None = None
    next_frame: int = 0


@dataclass
class FakeEngine:
    """Fulfills ``core.contract.Engine``.

    Attributes:
        max_slots: Slots; taking one more raises, as a scheduler must never try.
        fail_at_frame: The decode step that would make this frame of a sequence (counted from 0)
            raises ``RuntimeError``.
        before_step: Called before every decode step, for example to wait for an event (a slow
            engine).
        fail_to_encode: ``encode_reference`` raises.
        verbs: Name of every call, in order.
        prefills: What every prefill was given.
    """

    info: EngineInfo = FAKE_INFO
    max_slots: int = 4
    fail_at_frame: int | None = None
    before_step: Callable[[], None] = lambda: None
    fail_to_encode: bool = False
    verbs: list[str] = field(default_factory=list)
    prefills: list[tuple[str, tuple[Turn, ...], SamplingParams]] = field(default_factory=list)
    is_closed: bool = False
    known_prompts: int = 0
    _slots: dict[int, _Slot] = field(default_factory=dict)

    @property
    def used_slots(self) -> set[int]:
        """Slots that are taken now."""
        return set(self._slots)

    def warm_up(self) -> None:
        self.verbs.append("warm_up")

    def cache_counters(self) -> dict[str, CacheCounters]:
        return {"prefix_kv": CacheCounters(0, 0, 0, self.known_prompts, 0, 0)}

    def clear_caches(self) -> dict[str, int]:
        dropped, self.known_prompts = self.known_prompts, 0
        return {"prefix_kv": dropped}

    def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        self.verbs.append("encode_reference")
        if self.fail_to_encode:
            raise RuntimeError("the fake codec was told to fail")
        return fake_reference_codes(samples, self.info)

    def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        self.verbs.append("prompt_length")
        return fake_prompt_length(text, turns)

    def open_slot(self) -> int:
        self.verbs.append("open_slot")
        return self._take(_Slot())

    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        self.verbs.append("prefill")
        self.prefills.append((text, tuple(turns), sampling))
        if fake_prompt_length(text, turns) > self.info.max_prompt_positions:
            raise PromptTooLongError("the prompt leaves no room for speech; shorten the text")
        return self._take(_Slot(fake_codes(text, turns, sampling, self.info)))

    def decode_step(self, slots: Sequence[int]) -> list[StepResult]:
        self.verbs.append("decode_step")
        self.before_step()
        return [StepResult(slot, self._next_codes(self._slots[slot])) for slot in slots]

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[NDArray[np.float32]]:
        self.verbs.append("decode_frames")
        for chunk in chunks:
            assert chunk.slot in self._slots, f"slot {chunk.slot} is not taken"
        return [fake_samples(chunk.codes, self.info) for chunk in chunks]

    def release(self, slot: int) -> None:
        self.verbs.append("release")
        del self._slots[slot]

    def memory_bytes(self) -> tuple[int | None, int | None]:
        return None, None

    def close(self) -> None:
        self.is_closed = True

    def _take(self, slot: _Slot) -> int:
        free = [idx for idx in range(self.max_slots) if idx not in self._slots]
        if not free:
            raise RuntimeError("no slot is free")
        self._slots[free[0]] = slot
        return free[0]

    def _next_codes(self, slot: _Slot) -> NDArray[np.int32] | None:
        assert slot.codes is not None, "decode_step on a slot that was only opened for the codec"
        frame_idx = slot.next_frame
        if frame_idx == self.fail_at_frame:
            raise RuntimeError(f"the fake engine was told to fail at frame {frame_idx}")
        slot.next_frame += 1
        return slot.codes[:, frame_idx] if frame_idx < slot.codes.shape[1] else None


class FakeEngineClient:
    """Fulfills ``core.contract.EngineClient`` on the event loop.

    Args:
        info: Facts it reports.
        max_running: Slots.
        max_waiting: Requests that may wait for one.

    Attributes:
        permits: One is taken for every chunk of audio; None makes the engine run freely. A
            semaphore of 0 holds every request until the test releases it.
        may_load: Cleared, the engine stays in its start until it is set.
        start_failure: What ``wait_ready`` reports once loading ended, or None.
        fail_at_frame: A request fails when it would make this frame.
        num_refusals: So many of the next requests are refused as if the queue were full.
        requests: Every request that was accepted, in order.
        encoded: Every recording that was encoded.
        has_request: Set when the first request has been accepted.
        has_encode: Set when the first recording is being encoded.
        has_left: Set when a request has ended, in whatever way.
        idle: Set while no request runs or waits.
    """

    def __init__(
        self, info: EngineInfo = FAKE_INFO, *, max_running: int = 4, max_waiting: int = 64
    ) -> None:
        self._info = info
        self._slots = asyncio.Semaphore(max_running)
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._num_running = 0
        self._num_waiting = 0
        self._is_closed = False
        self._is_ready = False
        self.frames_per_chunk = 5
        self.permits: asyncio.Semaphore | None = None
        self.may_encode: asyncio.Event = asyncio.Event()
        self.may_encode.set()
        self.may_load: asyncio.Event = asyncio.Event()
        self.may_load.set()
        self.start_failure: str | None = None
        self.fail_at_frame: int | None = None
        self.num_refusals = 0
        self.requests: list[SynthesisRequest] = []
        self.encoded: list[NDArray[np.float32]] = []
        self.has_request = asyncio.Event()
        self.has_encode = asyncio.Event()
        self.has_left = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    async def start(self) -> None:
        """Begin to load."""

    async def wait_ready(self) -> EngineInfo:
        await self.may_load.wait()
        if self.start_failure is not None:
            raise EngineUnavailableError(f"the engine failed to start: {self.start_failure}")
        self._is_ready = True
        return self._info

    @property
    def info(self) -> EngineInfo | None:
        return self._info if self._is_ready else None

    def status(self) -> EngineStatus:
        if self._is_closed:
            return EngineStatus(EngineState.CLOSED, "the service is shutting down")
        if self.start_failure is not None and self.may_load.is_set():
            return EngineStatus(EngineState.FAILED, self.start_failure)
        if not self._is_ready:
            return EngineStatus(EngineState.STARTING, "loading the model")
        return EngineStatus(
            EngineState.READY,
            num_running=self._num_running,
            num_waiting=self._num_waiting,
            max_running=self._max_running,
        )

    async def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        self._check_serving()
        self.encoded.append(samples)
        self.has_encode.set()
        await self.may_encode.wait()
        return fake_reference_codes(samples, self._info)

    async def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        self._check_serving()
        return fake_prompt_length(text, turns)

    async def clear_caches(self) -> dict[str, int]:
        self._check_serving()
        return {"prefix_kv": 0}

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        self._check_serving()
        if self.num_refusals > 0 or self._num_waiting >= self._max_waiting + self._has_free_slot:
            self.num_refusals -= 1
            raise QueueFullError("too many requests are waiting; try again", retry_after_s=0.0)
        self.requests.append(request)
        self.has_request.set()
        self._num_waiting += 1
        self.idle.clear()
        has_slot = False
        try:
            await self._slots.acquire()
            has_slot = True
            self._num_waiting -= 1
            self._num_running += 1
            async for result in self._speak(request):
                yield result
        finally:
            if has_slot:
                self._num_running -= 1
                self._slots.release()
            else:
                self._num_waiting -= 1
            self.has_left.set()
            if self._num_running + self._num_waiting == 0:
                self.idle.set()

    async def close(self) -> None:
        self._is_closed = True

    @property
    def _has_free_slot(self) -> bool:
        return self._num_running < self._max_running

    async def _speak(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        codes, reason = self._codes_of(request)
        for start in range(0, codes.shape[1], self.frames_per_chunk):
            if self.permits is not None:
                await self.permits.acquire()
            if self._is_closed:
                raise ServiceClosedError("the service is shutting down")
            part = codes[:, start : start + self.frames_per_chunk]
            if self.fail_at_frame is not None and start + part.shape[1] > self.fail_at_frame:
                raise GenerationError("the engine failed while it worked; try again")
            yield AudioChunk(fake_samples(part, self._info), part)
        yield SynthesisSummary(
            finish_reason=reason,
            num_frames=codes.shape[1],
            queue_s=0.001,
            prefill_s=0.002,
            semantic_s=0.003,
            codec_s=0.004,
        )

    def _codes_of(self, request: SynthesisRequest) -> tuple[NDArray[np.int32], FinishReason]:
        if request.codes is not None:
            return request.codes, FinishReason.CODES
        positions = fake_prompt_length(request.text, request.turns)
        if positions > self._info.max_prompt_positions:
            raise PromptTooLongError("the prompt leaves no room for speech; shorten the text")
        codes = fake_codes(request.text, request.turns, request.sampling, self._info)
        limit = self._info.max_positions - positions
        if request.sampling.max_new_tokens:
            limit = min(limit, request.sampling.max_new_tokens)
        reason = FinishReason.LENGTH if codes.shape[1] > limit else FinishReason.STOP
        return codes[:, :limit], reason

    def _check_serving(self) -> None:
        status = self.status()
        if status.state is not EngineState.READY:
            raise EngineUnavailableError(f"the engine is {status.state}: {status.detail}")
