"""Speak the segments of one text one after another, each as the continuation of the last."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backend.core.errors import DeadlineExceededError, GenerationError, QueueFullError
from backend.core.types import AudioChunk, FinishReason, SynthesisRequest, Turn
from backend.service.cache import SemanticCache, SpokenCodes, semantic_key
from backend.service.ledger import SEMANTIC
from backend.service.second_try import whole_or_again
from backend.service.text import text_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.types import EngineInfo, SamplingParams, SynthesisSummary
    from backend.service.ledger import SpeechLedger
    from backend.service.takes import GuardedTakes, MakeTake

SLOW_SPEECH_WEIGHT_PER_S = 8.0
PAUSES_S = 2.0
NO_SOUND = "the model ended without a sound; try another seed or text"
SEEDS_PER_ATTEMPT = 1 << 32
"""Room for the seeds of all segments, so that a second attempt has noise of its own."""
_STOPS = frozenset(".!?\u3002\uff01\uff1f\u2026")
"""Speech of weight w takes at most about ``w / 8 + 2`` seconds: half as fast as people speak."""


@dataclass(frozen=True, slots=True)
class Narration:
    """What is to be spoken, all decided.

    Attributes:
        request_id: Names the request.
        segments: The text in stretches, perhaps still being written.
        references: The voice; empty when the seed draws one.
        sampling: With the request's seed.
        stream: Small first chunks.
        is_patient: Wait where the queue is full.
    """

    request_id: str
    segments: Sequence[str] | AsyncGenerator[str, None]
    references: tuple[Turn, ...]
    sampling: SamplingParams
    stream: bool
    is_patient: bool = False


class Narrator:
    """Turn narrations into sound. Confined to the event loop.

    Args:
        engine: Speaks one segment at a time.
        cache: Segments that were spoken before.
        takes: Looks after speech that goes wrong; None gives it as it comes.
        on_chunk: Called for every chunk that the engine makes.
    """

    def __init__(
        self,
        engine: EngineClient,
        cache: SemanticCache,
        takes: GuardedTakes | None = None,
        on_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._takes = takes
        self._on_chunk = on_chunk
        self._serials = itertools.count(1)

    async def speak(
        self, narration: Narration, info: EngineInfo, ledger: SpeechLedger
    ) -> AsyncGenerator[NDArray[np.float32], None]:
        """Yield ``[S]`` float32 samples as they are made; closing stops the engine's work.

        Raises:
            GenerationError: Not one frame came out.
            DeadlineExceededError: It took too long, and nobody has heard anything yet.
            Exception: Whatever ``EngineClient.synthesize`` raises.
        """
        spoken: list[Turn] = []
        idx = -1
        async for text in _each(narration.segments):
            idx += 1
            chunks = self.speak_one(narration, idx, text, spoken, info, ledger)
            async with aclosing(chunks):
                try:
                    async for chunk in chunks:
                        yield chunk.samples
                except DeadlineExceededError:
                    if ledger.buffered_s is None:
                        raise
                    ledger.finish_reason = FinishReason.TIMEOUT  # what is sounding ends cleanly
                    return
            del spoken[1:-1]  # the first and the last are continued; a book has thousands
        if not spoken:
            raise GenerationError(NO_SOUND)

    async def speak_one(
        self,
        narration: Narration,
        idx: int,
        text: str,
        spoken: list[Turn],
        info: EngineInfo,
        ledger: SpeechLedger,
    ) -> AsyncGenerator[AudioChunk, None]:
        """Speak one segment as the continuation of others.

        Args:
            narration: Its ``segments`` play no part.
            idx: Number of the segment, which decides its seed.
            text: The segment.
            spoken: What was spoken before; of it the first and the last count. Gets the new
                segment at the end, unless the model made no sound.
            info: Of the engine.
            ledger: Of the request.
        """
        turns = await self._turns_for(text, narration.references, spoken, info)
        wordings = _wordings(text)
        for attempt, wording in enumerate(wordings):

            def make_take(
                number: int, wording: str = wording, attempt: int = attempt
            ) -> AsyncGenerator[AudioChunk, None]:
                attempt += number * len(wordings)
                seed = segment_seed(narration.sampling.seed, idx + attempt * SEEDS_PER_ATTEMPT)
                sampling = replace(narration.sampling, seed=seed)
                return self._speak_segment(narration, wording, turns, sampling, info, ledger)

            frames: list[NDArray[np.int32]] = []
            chunks = self._guarded(narration, make_take, wording, info, ledger)
            async with aclosing(chunks):
                async for chunk in chunks:
                    frames.append(chunk.codes)
                    ledger.note_chunk(chunk)
                    yield chunk
            if frames:
                spoken.append(Turn(wording, np.concatenate(frames, axis=1)))
                return

    def _guarded(
        self,
        narration: Narration,
        make_take: MakeTake,
        text: str,
        info: EngineInfo,
        ledger: SpeechLedger,
    ) -> AsyncGenerator[AudioChunk, None]:
        if self._takes is None or narration.sampling.min_new_tokens:
            return make_take(0)  # who demands a length gets it
        guarded = self._takes.streamed if narration.stream else self._takes.whole
        return guarded(make_take, text, info, ledger)

    async def replay(
        self,
        request_id: str,
        spoken: AsyncGenerator[NDArray[np.int32], None],
        ledger: SpeechLedger,
        *,
        stream: bool,
    ) -> AsyncGenerator[NDArray[np.float32], None]:
        """Yield the samples of segments whose codes ``[K, F]`` are known; the model does not run.

        Raises:
            GenerationError: There was not one segment.
            Exception: Whatever ``EngineClient.synthesize`` raises.
        """
        async with aclosing(spoken):
            async for codes in spoken:
                request = SynthesisRequest(
                    request_id=f"{request_id}/{next(self._serials)}",
                    text="",
                    codes=codes,
                    stream=stream,
                    buffered_s=ledger.buffered_s,
                    speed=ledger.speed,
                )
                results = self._results(request, is_admitted=ledger.num_samples > 0)
                async with aclosing(results):
                    async for result in results:
                        if isinstance(result, AudioChunk):
                            ledger.note_chunk(result)
                            yield result.samples
                        else:
                            ledger.note_summary(result, result.finish_reason)
        if ledger.num_samples == 0:
            raise GenerationError("nothing of this has been spoken yet; ask again later")

    async def _turns_for(
        self, text: str, references: tuple[Turn, ...], spoken: list[Turn], info: EngineInfo
    ) -> tuple[Turn, ...]:
        """Give what the segment continues: the references and the segment before it.

        Without references the first segment stays as well: it is what fixes the voice. What does
        not fit the model's positions is left out, the earliest first.
        """
        earlier = spoken[-1:] if references or len(spoken) < 2 else [spoken[0], spoken[-1]]
        room = min(info.max_prompt_positions, info.max_positions - frames_needed(text, info))
        while earlier:
            turns = (*references, *earlier)
            if await self._engine.prompt_length(text, turns) <= room:
                return turns
            earlier = earlier[1:]
        return references

    async def _speak_segment(
        self,
        narration: Narration,
        text: str,
        turns: tuple[Turn, ...],
        sampling: SamplingParams,
        info: EngineInfo,
        ledger: SpeechLedger,
    ) -> AsyncGenerator[AudioChunk, None]:
        key = semantic_key(text, turns, sampling, info)
        cached = self._cache.get(key)
        ledger.note_cache(SEMANTIC, is_hit=cached is not None)
        request = SynthesisRequest(
            # the engine's ids must differ even where clients repeat theirs
            request_id=f"{narration.request_id}/{next(self._serials)}",
            text="" if cached else text,
            turns=() if cached else turns,
            sampling=sampling,
            codes=cached.codes if cached else None,
            stream=narration.stream,
            buffered_s=ledger.buffered_s,
            speed=ledger.speed,
        )
        frames: list[NDArray[np.int32]] = []
        is_admitted = narration.is_patient or ledger.num_samples > 0
        results = self._results(request, is_admitted=is_admitted)
        async with aclosing(results):
            async for result in results:
                if isinstance(result, AudioChunk):
                    frames.append(result.codes)
                    yield result
                    continue
                reason = cached.finish_reason if cached else result.finish_reason
                ledger.note_summary(result, reason)
                if frames and not cached:
                    codes = np.concatenate(frames, axis=1)
                    self._cache.put(key, SpokenCodes(codes, reason))

    def _results(
        self, request: SynthesisRequest, *, is_admitted: bool
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Run a request: a stream as it comes, the rest whole, and again if its engine dies."""
        if request.stream:
            return self._submit(request, is_admitted=is_admitted)
        return whole_or_again(partial(self._submit, request, is_admitted=is_admitted))

    async def _submit(
        self, request: SynthesisRequest, *, is_admitted: bool
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        """Run a request; a full queue refuses new speech, but speech that has begun waits."""
        while True:
            results = self._engine.synthesize(request)
            async with aclosing(results):
                try:
                    first = await anext(results)
                except QueueFullError as error:
                    if not is_admitted:
                        raise
                    retry_after_s = error.retry_after_s
                else:
                    self._note(first)
                    yield first
                    async for result in results:
                        self._note(result)
                        yield result
                    return
            await asyncio.sleep(retry_after_s)

    def _note(self, result: AudioChunk | SynthesisSummary) -> None:
        if isinstance(result, AudioChunk):
            self._on_chunk()


async def _each(segments: Sequence[str] | AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    if isinstance(segments, AsyncGenerator):
        async with aclosing(segments):
            async for text in segments:
                yield text
        return
    for text in segments:
        yield text


def _wordings(text: str) -> tuple[str, ...]:
    """Give the text, and what is tried when the model ends at once without a sound.

    That happens with single words that no stop ends.
    """
    ended = text if text[-1:] in _STOPS else f"{text}."
    return text, ended, ended


def segment_seed(seed: int, segment_idx: int) -> int:
    """Give each segment its own noise; the first has the request's seed itself."""
    if segment_idx == 0:
        return seed
    digest = hashlib.blake2s(struct.pack("<QQ", seed, segment_idx), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


def frames_needed(text: str, info: EngineInfo) -> int:
    """Estimate from above how many frames a segment takes."""
    seconds = text_weight(text) / SLOW_SPEECH_WEIGHT_PER_S + PAUSES_S
    return round(seconds * info.frame_rate)
