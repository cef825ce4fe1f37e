"""The service: speech requests in, bytes out.

The life of a request: text cleaned and cut -> voice found or recording encoded -> segments spoken
by the engine -> samples encoded into the output format. ``SynthesisService`` ties these together
and keeps the accounts; every dialect of the API calls ``speak`` and nothing else to get speech.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from backend.core.errors import (
    EngineUnavailableError,
    InvalidTextError,
    TTSError,
)
from backend.core.types import EngineState, EngineStatus
from backend.service.bare_codec import decode_codes
from backend.service.cache import SemanticCache, VoiceCodesCache, cache_budgets
from backend.service.emotions import without_unknown_markers
from backend.service.files import plan_file, streamed_file, whole_file
from backend.service.languages import abbreviations_of, checked_language
from backend.service.ledger import SEMANTIC, VOICE_CODES, SpeechLedger
from backend.service.live_text import live_segments
from backend.service.narration import Narration, Narrator
from backend.service.references import ReferenceVoices
from backend.service.requests import MAX_SEED, REFUSALS, Speech, SpeechRequest
from backend.service.text import clean_text, is_speakable, split_text, tidy_text
from backend.service.voice_library import VoiceService
from backend.telemetry.metrics import Metrics
from backend.telemetry.recent import RecentRequests, RequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import CacheCounters, EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.service.voices import VoiceLibrary

    _MakeSound: TypeAlias = Callable[
        [SpeechRequest, EngineInfo, SpeechLedger],
        Awaitable[AsyncGenerator[NDArray[np.float32], None]],
    ]

logger = logging.getLogger(__name__)

MAX_RECENT_REQUESTS = 1024
_LONG_TEXT_CHARS = 20_000
"""Longer texts are cut in a thread: the event loop has others to serve."""


class SynthesisService:
    """Speak, with any number of requests at a time. Confined to the event loop.

    Life: made -> ``open`` (waits for the engine, reads the voices; run it in the background) ->
    ``speak`` any number of times -> ``close``. Before ``open`` has ended ``speak`` raises
    ``EngineUnavailableError``.

    Args:
        engine: Started by the caller, closed by ``close``.
        settings: Limits and the size of the caches.
        model_dir: Where the model's voices are.
        pool: Threads for CPU work.

    Attributes:
        voice_service: Adds, changes and gives voices.
        narrator: Speaks what ``prepare`` gives.
        metrics: Everything that is counted.
        recent: What the last requests cost.
    """

    def __init__(
        self,
        engine: EngineClient,
        settings: Settings,
        model_dir: Path,
        pool: CpuPool,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._pool = pool
        voice_codes_bytes, semantic_bytes = cache_budgets(settings.cache_limit)
        self._voice_codes = VoiceCodesCache(voice_codes_bytes)
        self._semantic = SemanticCache(semantic_bytes)
        self.voice_service = VoiceService(engine, settings, model_dir, pool, self._voice_codes)
        self._references = ReferenceVoices(
            engine, self._voice_codes, self._pool, settings, self.voice_service
        )
        self.narrator = Narrator(engine, self._semantic)
        self._is_open = False
        self._failure: str | None = None
        self.metrics = Metrics()
        self.recent = RecentRequests(MAX_RECENT_REQUESTS)
        self.metrics.watch_engine(self.status)
        self.metrics.watch_cache(VOICE_CODES, lambda: self._voice_codes.lru.counters)
        self.metrics.watch_cache(SEMANTIC, lambda: self._semantic.lru.counters)

    async def open(self) -> None:
        """Wait until the engine can serve and read the model's voices.

        Raises:
            EngineUnavailableError: The engine failed to start.
            CheckpointError: A voice file is unusable.
        """
        started = time.monotonic()
        try:
            info = await self._engine.wait_ready()
            await self.voice_service.open(info)
            self._is_open = True
        except TTSError as error:
            self._failure = str(error)
            raise
        logger.info(
            "ready after %.1f s: model %s on %s in %s, %d voices",
            time.monotonic() - started,
            info.model,
            info.device,
            info.precision,
            len(self.voice_service.library.voices),
        )
        for note in info.notes:
            logger.warning("%s", note)

    async def close(self) -> None:
        """Stop the engine; speech that is under way ends with an error."""
        await self._engine.close()
        await self.voice_service.close()

    @property
    def info(self) -> EngineInfo | None:
        """Facts about the engine once it can speak."""
        return self._engine.info if self._is_open else None

    def status(self) -> EngineStatus:
        """The service as it is now: ready means that ``speak`` works."""
        status = self._engine.status()
        if status.state is not EngineState.READY or self._is_open:
            return status
        if self._failure is not None:
            return EngineStatus(EngineState.FAILED, self._failure)
        return EngineStatus(EngineState.STARTING, "reading the voices")

    def voices(self) -> VoiceLibrary:
        """Give all voices as they are now: the model's own and the added ones.

        Raises:
            EngineUnavailableError: The model is not loaded (yet).
        """
        return self._require_open()[1]

    async def count_tokens(self, text: str) -> int:
        """Count the positions that a text takes in the model.

        Raises:
            EngineUnavailableError: The model is not loaded (yet).
        """
        self._require_open()
        return await self._engine.prompt_length(tidy_text(text), ())

    async def encode_recording(self, content: bytes) -> NDArray[np.int32]:
        """Turn a recording into the codec's codes ``[K, F]``.

        Raises:
            InvalidAudioError: It cannot be used; the message says why.
            EngineUnavailableError: The engine is not there.
        """
        info, _ = self._require_open()
        codes, _ = await self._references.encode(content, info)
        return codes

    async def decode_codes(self, codes: NDArray[np.int32], request_id: str) -> NDArray[np.float32]:
        """Turn codes ``[K, F]`` into ``[F * frame_length]`` samples at the model's rate.

        Raises:
            InvalidInputError: The codes do not fit the codec.
            QueueFullError: Too many requests are waiting.
            EngineUnavailableError: The engine is not there.
        """
        info, _ = self._require_open()
        return await decode_codes(self._engine, codes, info, request_id)

    def clear_caches(self, name: str | None = None) -> dict[str, int]:
        """Empty one cache (``"voice_codes"`` or ``"semantic"``) or, without a name, both.

        Returns:
            The number of entries dropped, by cache.
        """
        caches = {VOICE_CODES: self._voice_codes.lru, SEMANTIC: self._semantic.lru}
        chosen = caches if name is None else {name: caches[name]}
        return {cache_name: lru.clear() for cache_name, lru in chosen.items()}

    def cache_counters(self) -> dict[str, CacheCounters]:
        """Give what each cache holds and has done."""
        return {
            VOICE_CODES: self._voice_codes.lru.counters,
            SEMANTIC: self._semantic.lru.counters,
        }

    async def speak(self, request: SpeechRequest) -> Speech:
        """Begin to speak; returns when the first bytes exist (the whole file without ``stream``).

        A caller that is cancelled meanwhile, or closes the ``Speech``, ends the request: the engine
        frees its slot within one step.

        Raises:
            InvalidInputError: Text, recording or format cannot be used; the message says why.
            VoiceNotFoundError: No voice has this name.
            QueueFullError: Too many requests are waiting.
            EngineUnavailableError: The engine is not there.
            GenerationError: The engine failed before the first sound.
        """
        return await self._begin(request, self._spoken)

    async def replay(
        self, request: SpeechRequest, spoken: AsyncGenerator[NDArray[np.int32], None]
    ) -> Speech:
        """Begin to give speech whose codes are known, as ``speak`` does; no model runs.

        Args:
            request: Its format, effects and accounts; text, voice and sampling play no part.
            spoken: Codes ``[K, F]`` of one segment after another; closed at the end.

        Raises:
            Exception: As for ``speak``.
        """

        async def make_sound(
            request: SpeechRequest, _info: EngineInfo, ledger: SpeechLedger
        ) -> AsyncGenerator[NDArray[np.float32], None]:
            ledger.seed, ledger.voice = request.seed, request.voice
            return self.narrator.replay(request.request_id, spoken, ledger, stream=request.stream)

        return await self._begin(request, make_sound)

    async def prepare(
        self, request: SpeechRequest, ledger: SpeechLedger, *, is_job: bool = False
    ) -> Narration:
        """Decide everything about a request but its file: text cut, voice found, seed drawn.

        Args:
            request: What to speak.
            ledger: Gets seed, voice, size and warnings.
            is_job: The text may be as long as that of a job.

        Raises:
            InvalidInputError: Text, recording or language cannot be used; the message says why.
            VoiceNotFoundError: No voice has this name.
            EngineUnavailableError: The engine is not there.
        """
        info, library = self._require_open()
        ledger.sample_rate = info.sample_rate
        ledger.seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        language = checked_language(request.language)
        if request.live_text is not None:
            segments = live_segments(request.live_text, info.model, ledger)
        else:
            name = "max_job_chars" if is_job else "max_text_chars"
            limit = (getattr(self._settings, name), name.upper())
            if len(request.text) > _LONG_TEXT_CHARS:
                cut = await self._pool.run(_segments, request.text, language, info.model, *limit)
            else:
                cut = _segments(request.text, language, info.model, *limit)
            segments = cut.segments
            ledger.num_chars, ledger.num_segments = cut.num_chars, len(cut.segments)
            ledger.warnings += cut.warnings
        voice = await self._references.resolve(request, library, info, ledger)
        ledger.voice = voice.name
        return Narration(
            request_id=request.request_id,
            segments=segments,
            references=voice.turns,
            sampling=request.sampling.apply(info.sampling, ledger.seed),
            stream=request.stream,
            is_patient=request.is_patient,
        )

    async def _spoken(
        self, request: SpeechRequest, info: EngineInfo, ledger: SpeechLedger
    ) -> AsyncGenerator[NDArray[np.float32], None]:
        return self.narrator.speak(await self.prepare(request, ledger), info, ledger)

    async def _begin(self, request: SpeechRequest, make_sound: _MakeSound) -> Speech:
        ledger = SpeechLedger(request.request_id)
        pieces = self._accounted(request, make_sound, ledger)
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        info, _ = self._require_open()
        plan = plan_file(request, info.sample_rate)
        return Speech(
            media_type=plan.output.media_type,
            extension=plan.output.extension,
            sample_rate=plan.sample_rate,
            ledger=ledger,
            first=first,
            rest=pieces,
        )

    async def _accounted(
        self, request: SpeechRequest, make_sound: _MakeSound, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, and write down how it ended, whichever way it ends."""
        self.metrics.request_started()
        status, error_name = RequestStatus.CANCELLED, None
        try:
            async with aclosing(self._bytes(request, make_sound, ledger)) as pieces:
                async for piece in pieces:
                    yield piece
            status = RequestStatus.OK
        except Exception as error:
            status = RequestStatus.REJECTED if isinstance(error, REFUSALS) else RequestStatus.FAILED
            error_name = type(error).__name__
            raise
        finally:
            ledger.end(status, error_name)
            record = ledger.record()
            self.metrics.request_ended(record)
            self.recent.add(record)
            logger.info(
                "%s: voice=%s frames=%d audio_s=%.2f total_s=%.3f error=%s",
                status.value,
                ledger.voice,
                ledger.num_frames,
                ledger.audio_s or 0.0,
                ledger.total_s or 0.0,
                error_name,
            )

    async def _bytes(
        self, request: SpeechRequest, make_sound: _MakeSound, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        info, _ = self._require_open()
        plan = plan_file(request, info.sample_rate)
        ledger.format, ledger.is_stream = plan.output.name, request.stream
        ledger.sample_rate, ledger.speed = info.sample_rate, request.speed
        make_file = streamed_file if request.stream else whole_file
        sound = await make_sound(request, info, ledger)
        pieces = make_file(sound, plan, self._pool, ledger)
        async with aclosing(sound), aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _require_open(self) -> tuple[EngineInfo, VoiceLibrary]:
        status, info = self.status(), self._engine.info
        if status.state is not EngineState.READY or info is None or not self._is_open:
            detail = f": {status.detail}" if status.detail else ""
            raise EngineUnavailableError(
                f"the service cannot speak now, it is {status.state.value}{detail}; GET /health "
                "tells when it can"
            )
        return info, self.voice_service.library


@dataclass(frozen=True, slots=True)
class _CutText:
    segments: list[str]
    num_chars: int
    warnings: list[str]


def _segments(
    text: str, language: str | None, model: str, max_chars: int, setting: str
) -> _CutText:
    """Clean and cut a text. May run in a thread."""
    cleaned, warnings = clean_text(text, max_chars, setting), list[str]()
    cleaned, num_removed = without_unknown_markers(cleaned, model)
    if num_removed:
        what = "1 marker" if num_removed == 1 else f"{num_removed} markers"
        warnings.append(f"{what} left out: the model {model} does not know them")
    if not is_speakable(cleaned):
        raise InvalidTextError(
            f"the text is only markers, which the model {model} does not know; send at least one "
            "word"
        )
    if language is None:
        return _CutText(split_text(cleaned), len(cleaned), warnings)
    segments = split_text(cleaned, abbreviations=abbreviations_of(language))
    return _CutText(segments, len(cleaned), warnings)
