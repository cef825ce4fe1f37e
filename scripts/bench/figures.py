"""Measure one engine through its public verbs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backend.core.contract import FrameChunk, OverlappingEngine
from backend.core.types import SamplingParams, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from backend.core.contract import Engine

TTFA_TEXT = "The quick brown fox jumps over the lazy dog."
SAMPLING = SamplingParams(temperature=0.8, top_p=0.8, max_new_tokens=0)
_WARM_UPS = 3
_REFERENCE_S = 5.0
_END_TO_END_CHUNK = 8
_MANY = 64
"""Streams that are also measured together where the largest batch is larger."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(slots=True)
class Stopwatch:
    """Times calls that may leave work behind on a card."""

    device: str

    def __call__(self, work: Callable[[], object]) -> float:
        """Seconds from an idle device to an idle device."""
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class Bench:
    """Measures one engine; figures are medians in milliseconds.

    Args:
        engine: Warmed up, with no slot taken.
        steps: Measured repetitions of a decode step; other stages take a third of them.
        prompt_positions: Length of the prompts that are decoded after, and of the prefill.
    """

    def __init__(self, engine: Engine, steps: int, prompt_positions: int) -> None:
        self.engine, self.steps, self.prompt_positions = engine, steps, prompt_positions
        self.repeats = max(3, steps // 3)
        self.time = Stopwatch(engine.info.device)
        self._texts = 0

    def decode_step_ms(self, batch: int) -> float:
        """One frame for each of ``batch`` sequences."""
        slots = [self._prefill() for _ in range(batch)]
        times = [self._step(slots) for _ in range(_WARM_UPS + self.steps)][_WARM_UPS:]
        self._release(slots)
        return median(times) * 1e3

    def prefill_ms(self) -> float:
        """A prompt of ``prompt_positions`` that was never seen."""
        times: list[float] = []
        for _ in range(1 + self.repeats):
            text, slots = self._text(), list[int]()
            times.append(
                self.time(lambda: slots.append(self.engine.prefill(text, [], SAMPLING)))  # noqa: B023
            )
            self._release(slots)
        return median(times[1:]) * 1e3

    def encode_ms(self, seconds: float) -> float:
        """A reference recording of ``seconds``."""
        samples = self._tone(seconds)
        return self._median_ms(lambda: self.engine.encode_reference(samples))

    def decode_whole_ms(self, seconds: float) -> float:
        """The samples of ``seconds`` of codes, in one call."""
        return self._decode_ms(1, round(seconds * self.engine.info.frame_rate))

    def decode_stream_ms(self, batch: int, num_frames: int = 1) -> float:
        """The next ``num_frames`` of each of ``batch`` streams that have begun."""
        return self._decode_ms(batch, num_frames)

    def ttfa_ms(self) -> float:
        """From a text to its first frame as samples, in a voice that was used before."""
        turns = [Turn("A voice.", self.engine.encode_reference(self._tone(_REFERENCE_S)))]

        def speak() -> None:
            slot = self.engine.prefill(TTFA_TEXT, turns, SAMPLING)
            codes = self.engine.decode_step([slot])[0].codes
            if codes is not None:
                self.engine.decode_frames([FrameChunk(slot, codes[:, None])])
            self.engine.release(slot)

        return self._median_ms(speak)

    def streams_x_realtime(self, batch: int) -> float:
        """Seconds of speech per second, codes and samples, for ``batch`` streams at a time."""
        slots = [self._prefill() for _ in range(batch)]
        shape = (self.engine.info.num_codebooks, _END_TO_END_CHUNK)
        codes = np.zeros(shape, dtype=np.int32)

        def one_round() -> float:
            if isinstance(self.engine, OverlappingEngine) and self.engine.decodes_beside(batch):
                return self._round_beside(self.engine, slots, codes)
            semantic = sum(self._step(slots) for _ in range(_END_TO_END_CHUNK))
            chunks = [FrameChunk(slot, codes) for slot in slots]
            return semantic + self.time(lambda: self.engine.decode_frames(chunks))

        one_round()
        rounds = max(2, self.steps // _END_TO_END_CHUNK)
        spent = sum(one_round() for _ in range(rounds))
        self._release(slots)
        return batch * rounds * _END_TO_END_CHUNK / self.engine.info.frame_rate / spent

    def _round_beside(
        self, engine: OverlappingEngine, slots: list[int], codes: NDArray[np.int32]
    ) -> float:
        """Seconds of a round with the codec beside the steps, prompts of new sequences included."""
        started = time.perf_counter()
        work = engine.begin_frames([FrameChunk(slot, codes) for slot in slots])
        for _ in range(_END_TO_END_CHUNK):
            self._step(slots)
        work.collect()
        return time.perf_counter() - started

    def fill(self, batch: int) -> None:
        """Use every stage with ``batch`` slots, so that the peak of the memory shows."""
        slots = [self._prefill() for _ in range(batch)]
        self._step(slots)
        self._release(slots)
        self.decode_stream_ms(batch)
        self.engine.encode_reference(self._tone(_REFERENCE_S))

    def _decode_ms(self, batch: int, num_frames: int) -> float:
        slots = [self.engine.open_slot() for _ in range(batch)]
        codes = np.zeros((self.engine.info.num_codebooks, num_frames), dtype=np.int32)
        chunks = [FrameChunk(slot, codes) for slot in slots]
        spent_ms = self._median_ms(lambda: self.engine.decode_frames(chunks))
        self._release(slots)
        return spent_ms

    def _median_ms(self, work: Callable[[], object]) -> float:
        times = [self.time(work) for _ in range(_WARM_UPS + self.repeats)]
        return median(times[_WARM_UPS:]) * 1e3

    def _step(self, slots: list[int]) -> float:
        """Seconds of one step; sequences that ended are replaced, which is not counted."""
        ended: list[int] = []

        started = time.perf_counter()
        results = self.engine.decode_step(slots)  # what it draws is in the host: the device is idle
        spent = time.perf_counter() - started
        ended.extend(index for index, one in enumerate(results) if one.codes is None)
        for index in ended:
            self.engine.release(slots[index])
            slots[index] = self._prefill()
        return spent

    def _prefill(self) -> int:
        return self.engine.prefill(self._text(), [], SAMPLING)

    def _release(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.engine.release(slot)

    def _text(self) -> str:
        """Another text each time, of ``prompt_positions`` with what surrounds it."""
        self._texts += 1
        letters = np.random.default_rng(self._texts).integers(0, 26, 4 * self.prompt_positions)
        text = "".join(_LETTERS[letter] for letter in letters)
        return self._cut(text)

    def _cut(self, text: str) -> str:
        low, high = 1, len(text)
        while low < high:  # the longest part that fits
            middle = (low + high + 1) // 2
            if self.engine.prompt_length(text[:middle], []) <= self.prompt_positions:
                low = middle
            else:
                high = middle - 1
        return text[:low]

    def _tone(self, seconds: float) -> NDArray[np.float32]:
        rate = self.engine.info.sample_rate
        phase = 2 * np.pi * 150 * np.arange(int(seconds * rate)) / rate
        return (0.3 * np.sin(phase)).astype(np.float32)


def all_figures(bench: Bench, batches: Sequence[int]) -> dict[str, Any]:
    """Every figure of one engine by name."""
    crowds = sorted({1, min(_MANY, batches[-1]), batches[-1]})
    return {
        "decode_step_ms": {str(batch): round(bench.decode_step_ms(batch), 3) for batch in batches},
        "prefill_positions": bench.prompt_positions,
        "prefill_ms": round(bench.prefill_ms(), 3),
        "encode_10s_ms": round(bench.encode_ms(10.0), 3),
        "decode_10s_ms": round(bench.decode_whole_ms(10.0), 3),
        "codec_stream_1_frame_ms": {
            str(batch): round(bench.decode_stream_ms(batch), 3) for batch in crowds
        },
        "ttfa_warm_voice_ms": round(bench.ttfa_ms(), 3),
        "streams_x_realtime": {
            str(batch): round(bench.streams_x_realtime(batch), 2) for batch in crowds
        },
    }
