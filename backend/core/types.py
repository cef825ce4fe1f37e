"""Values that travel between the rooms: requests down, audio and facts up.

Arrays are numpy and never written to after they are made. Shape letters: ``K`` codebooks (row 0 is
the semantic one), ``F`` frames, ``S`` samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next code is drawn.

    Attributes:
        temperature: 0 takes the likeliest code; at most 2.
        top_p: Keep the likeliest codes up to this share of probability, ``(0, 1]``.
        top_k: Keep at most this many codes; 0 keeps all.
        repetition_penalty: Above 1 makes recent codes less likely, ``(0, 2]``; 1 is off.
        repetition_window: Frames that count as recent.
        max_new_tokens: Most frames to make; 0 means as many as there are positions.
        min_new_tokens: Frames that are made whatever the model says: before, it cannot end. For
            measurements, where weights that were never trained have to speak for a known time.
        seed: Fixes the noise of this one request, whatever else runs beside it.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 0
    repetition_penalty: float = 1.1
    repetition_window: int = 16
    max_new_tokens: int = 1024
    min_new_tokens: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """Text and how it was spoken: a reference, or an earlier part of a long text.

    Attributes:
        text: What is said.
        codes: ``[K, F]`` int32.
    """

    text: str
    codes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """One stretch of speech for the engine to make.

    Attributes:
        request_id: Names the request in logs and metrics.
        text: What to say; empty when ``codes`` are given.
        turns: What was said before in the voice to continue: references first, then earlier parts.
        sampling: How codes are drawn.
        codes: ``[K, F]`` int32 when the speech is known already and only the codec has to run.
        stream: True makes the first chunks small, so that sound starts early.
        buffered_s: When this continues speech that a listener of a stream is hearing: seconds of it
            that are still to be heard, 0 if it ran dry. None begins.
        speed: How many times faster than made the listener hears it.
    """

    request_id: str
    text: str
    turns: tuple[Turn, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    codes: NDArray[np.int32] | None = None
    stream: bool = True
    buffered_s: float | None = None
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The next samples of a request.

    Attributes:
        samples: ``[S]`` float32 in -1..1 at the engine's sample rate.
        codes: ``[K, F]`` int32, the frames these samples came from.
    """

    samples: NDArray[np.float32]
    codes: NDArray[np.int32]


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """The model said that it was done."""
    LENGTH = "length"
    """``max_new_tokens`` or the last position was reached."""
    CUT = "cut"
    """It went wrong (endless, a loop, silence) and was cut where it did."""
    CODES = "codes"
    """The given codes were all decoded."""
    TIMEOUT = "timeout"
    """It took too long; what there was has been heard."""


@dataclass(frozen=True, slots=True)
class SynthesisSummary:
    """What one request cost. Comes after the last chunk.

    Attributes:
        finish_reason: Why it ended.
        num_frames: Frames made.
        queue_s: From submission to admission.
        prefill_s: The prompt's pass.
        semantic_s: All decode steps of this sequence.
        codec_s: All codec decodes of this sequence.
        num_underruns: Times the listener ran dry, by the clock of what was sent when.
        dry_s: Seconds of silence in all that this meant.
    """

    finish_reason: FinishReason
    num_frames: int
    queue_s: float
    prefill_s: float
    semantic_s: float
    codec_s: float
    num_underruns: int = 0
    dry_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about a loaded engine; they do not change while it lives.

    Attributes:
        model: The setting that chose the model, e.g. ``pocket``.
        revision: Changes when any weight or the configuration changes; part of cache keys.
        sample_rate: Hz of every sample in and out.
        frame_length: Samples per frame.
        codebook_sizes: Codes per codebook, semantic first; its length is ``K``.
        max_positions: Prompt positions and new frames together.
        max_prompt_positions: Longest prompt that is accepted.
        device: ``cpu`` or ``cuda:0`` and the like.
        precision: Storage and matrix type: ``fp32``, ``bf16`` or ``fp16``.
        sampling: The checkpoint's own defaults.
        notes: One line for each thing that differs from what the settings asked for.
        quantization: Of the transformer's linear layers: ``none``, ``int8`` or ``nf4``.
        memory_plan: Bytes by part (``weights``, ``codec``, ``slots``, ``workspace``), as planned at
            the start; empty where nothing was planned.
    """

    model: str
    revision: str
    sample_rate: int
    frame_length: int
    codebook_sizes: tuple[int, ...]
    max_positions: int
    max_prompt_positions: int
    device: str
    precision: str
    sampling: SamplingParams
    notes: tuple[str, ...] = ()
    quantization: str = "none"
    memory_plan: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def num_codebooks(self) -> int:
        """``K``."""
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames per second of speech."""
        return self.sample_rate / self.frame_length


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """What a cache holds and has done since the start."""

    hits: int
    misses: int
    evictions: int
    entries: int
    size_bytes: int
    budget_bytes: int


class EngineState(StrEnum):
    """What the engine is doing, for ``/health``."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died and is being started again; what is asked of it waits."""
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine as it is now.

    Attributes:
        state: See ``EngineState``.
        detail: Why, when the state is not ``READY``.
        num_running: Sequences that hold a slot.
        num_waiting: Sequences in the queue.
        max_running: Slots.
        memory_bytes: Device memory in use, or None where the device does not tell.
        peak_memory_bytes: The most so far, or None.
        restarts: Times it was started again after it had died.
        streams_broken: Requests that were cut by its death after they had begun to sound.
        last_failure: Why it died the last time, or None.
        caches: The engine's own caches by name.
    """

    state: EngineState
    detail: str = ""
    num_running: int = 0
    num_waiting: int = 0
    max_running: int = 0
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    restarts: int = 0
    streams_broken: int = 0
    last_failure: str | None = None
    caches: dict[str, CacheCounters] = field(default_factory=dict[str, CacheCounters])

    @property
    def takes_requests(self) -> bool:
        """Whether a request is served, at once or as soon as the engine is back."""
        return self.state in (EngineState.READY, EngineState.RESTARTING)
