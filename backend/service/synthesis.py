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
from typing import TYPE_CHECKING

from backend.audio.formats import output_format
from backend.core.errors import (
    EngineUnavailableError,
    InvalidInputError,
    InvalidTextError,
    QueueFullError,
    TTSError,
    VoiceNotFoundError,
)
from backend.core.types import EngineState, EngineStatus
from backend.service.cache import CacheCounters, SemanticCache, VoiceCodesCache, cache_budgets
from backend.service.emotions import knows_markers, without_markers
from backend.service.files import streamed_file, whole_file
from backend.service.ledger import SEMANTIC, VOICE_CODES, SpeechLedger
from backend.service.narration import Narration, Narrator
from backend.service.references import ReferenceVoices
from backend.service.requests import MAX_SEED, Speech, SpeechRequest
from backend.service.text import clean_text, is_speakable, split_text
from backend.service.voices import VoiceLibrary
from backend.telemetry.metrics import Metrics
from backend.telemetry.recent import RecentRequests, RequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import EngineInfo
    from backend.service.cpu_pool import CpuPool

logger = logging.getLogger(__name__)

MAX_RECENT_REQUESTS = 1024

_REFUSALS = (InvalidInputError, VoiceNotFoundError, QueueFullError, EngineUnavailableError)
"""Errors that mean no work was done."""


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
        self._model_dir = model_dir
        self._pool = pool
        voice_codes_bytes, semantic_bytes = cache_budgets(settings.cache_limit)
        self._voice_codes = VoiceCodesCache(voice_codes_bytes)
        self._semantic = SemanticCache(semantic_bytes)
        self._references = ReferenceVoices(engine, self._voice_codes, self._pool, settings)
        self._narrator = Narrator(engine, self._semantic)
        self._library: VoiceLibrary | None = None
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
            self._library = await self._pool.run(VoiceLibrary.load, self._model_dir, info)
        except TTSError as error:
            self._failure = str(error)
            raise
        logger.info(
            "ready after %.1f s: model %s on %s in %s, %d voices",
            time.monotonic() - started,
            info.model,
            info.device,
            info.precision,
            len(self._library.voices),
        )
        for note in info.notes:
            logger.warning("%s", note)

    async def close(self) -> None:
        """Stop the engine; speech that is under way ends with an error."""
        await self._engine.close()

    @property
    def info(self) -> EngineInfo | None:
        """Facts about the engine once it can speak."""
        return self._engine.info if self._library is not None else None

    def status(self) -> EngineStatus:
        """The service as it is now: ready means that ``speak`` works."""
        status = self._engine.status()
        if status.state is not EngineState.READY or self._library is not None:
            return status
        if self._failure is not None:
            return EngineStatus(EngineState.FAILED, self._failure)
        return EngineStatus(EngineState.STARTING, "reading the voices")

    def voices(self) -> VoiceLibrary:
        """Give the model's voices.

        Raises:
            EngineUnavailableError: The model is not loaded (yet).
        """
        return self._require_open()[1]

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
        ledger = SpeechLedger(request.request_id)
        pieces = self._accounted(request, ledger)
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        output = output_format(request.format)
        info, _ = self._require_open()
        return Speech(
            media_type=output.media_type,
            extension=output.extension,
            sample_rate=output.output_rate_hz(info.sample_rate),
            ledger=ledger,
            first=first,
            rest=pieces,
        )

    async def _accounted(
        self, request: SpeechRequest, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, and write down how it ended, whichever way it ends."""
        self.metrics.request_started()
        status, error_name = RequestStatus.CANCELLED, None
        try:
            async with aclosing(self._bytes(request, ledger)) as pieces:
                async for piece in pieces:
                    yield piece
            status = RequestStatus.OK
        except Exception as error:
            status = (
                RequestStatus.REJECTED if isinstance(error, _REFUSALS) else RequestStatus.FAILED
            )
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
        self, request: SpeechRequest, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        info, library = self._require_open()
        output = output_format(request.format)
        ledger.format, ledger.is_stream = output.name, request.stream
        ledger.sample_rate = info.sample_rate
        ledger.seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        segments = self._segments(request.text, info, ledger)
        voice = await self._references.resolve(request, library, info, ledger)
        ledger.voice = voice.name
        narration = Narration(
            request_id=request.request_id,
            segments=segments,
            references=voice.turns,
            sampling=request.sampling.apply(info.sampling, ledger.seed),
            stream=request.stream,
        )
        make_file = streamed_file if request.stream else whole_file
        sound = self._narrator.speak(narration, info, ledger)
        pieces = make_file(sound, output.name, info.sample_rate, self._pool, ledger)
        async with aclosing(sound), aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _segments(self, text: str, info: EngineInfo, ledger: SpeechLedger) -> list[str]:
        cleaned = clean_text(text, self._settings.max_text_chars)
        if knows_markers(info.model) is False:
            cleaned, num_removed = without_markers(cleaned)
            if num_removed:
                ledger.warnings.append(
                    f"{num_removed} markers left out: the model {info.model} does not know them"
                )
            if not is_speakable(cleaned):
                raise InvalidTextError(
                    f"the text is only markers, which the model {info.model} does not know; send "
                    "at least one word"
                )
        segments = split_text(cleaned)
        ledger.num_chars, ledger.num_segments = len(cleaned), len(segments)
        return segments

    def _require_open(self) -> tuple[EngineInfo, VoiceLibrary]:
        status, info = self.status(), self._engine.info
        if status.state is not EngineState.READY or info is None or self._library is None:
            detail = f": {status.detail}" if status.detail else ""
            raise EngineUnavailableError(
                f"the service cannot speak now, it is {status.state.value}{detail}; GET /health "
                "tells when it can"
            )
        return info, self._library
