"""The service: speech requests in, bytes out.

The life of a request: text cleaned and cut, voice found or recording encoded (``preparation``) ->
segments spoken by the engine (``narration``) -> samples encoded into the output format and the
accounts kept (``delivery``). ``SynthesisService`` ties these together; every dialect of the API
calls ``speak`` and nothing else to get speech.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from backend.core.errors import EngineUnavailableError, TTSError
from backend.core.types import EngineState, EngineStatus
from backend.service.bare_codec import decode_codes
from backend.service.cache import SemanticCache, VoiceCodesCache, cache_budgets
from backend.service.delivery import Delivery
from backend.service.ledger import PREFIX_KV, SEMANTIC, VOICE_CODES, SpeechLedger
from backend.service.narration import Narration, Narrator
from backend.service.preparation import Preparation
from backend.service.references import ReferenceVoices
from backend.service.takes import GuardedTakes
from backend.service.text import tidy_text
from backend.service.voice_library import VoiceService
from backend.telemetry.metrics import Metrics
from backend.telemetry.recent import RecentRequests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import CacheCounters, EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.service.requests import Speech, SpeechRequest
    from backend.service.voices import VoiceLibrary

logger = logging.getLogger(__name__)

MAX_RECENT_REQUESTS = 1024


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
        self._preparation = Preparation(settings, pool, self._references)
        self.metrics = Metrics()
        takes = GuardedTakes(self.metrics.speech_went_wrong) if settings.speech_guard else None
        self.narrator = Narrator(engine, self._semantic, takes, self.metrics.chunk_made)
        self._is_open = False
        self._failure: str | None = None
        self.recent = RecentRequests(MAX_RECENT_REQUESTS)
        self._delivery = Delivery(self._require_info, pool, self.metrics, self.recent)
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

    async def clear_caches(self, name: str | None = None) -> dict[str, int]:
        """Empty one cache or, without a name, all.

        Args:
            name: ``"voice_codes"``, ``"semantic"`` or ``"prefix_kv"``.

        Returns:
            The number of entries dropped, by cache.

        Raises:
            EngineUnavailableError: The engine, which keeps ``prefix_kv``, is not there.
        """
        caches = {VOICE_CODES: self._voice_codes.lru, SEMANTIC: self._semantic.lru}
        cleared = {key: lru.clear() for key, lru in caches.items() if name in (None, key)}
        is_ready = self._engine.status().state is EngineState.READY  # else it holds none
        if name == PREFIX_KV or (name is None and is_ready):
            cleared |= await self._engine.clear_caches()
        return cleared

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
        return await self._delivery.begin(request, self._spoken)

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

        return await self._delivery.begin(request, make_sound)

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
        return await self._preparation.prepare(request, info, library, ledger, is_job=is_job)

    async def _spoken(
        self, request: SpeechRequest, info: EngineInfo, ledger: SpeechLedger
    ) -> AsyncGenerator[NDArray[np.float32], None]:
        return self.narrator.speak(await self.prepare(request, ledger), info, ledger)

    def _require_info(self) -> EngineInfo:
        return self._require_open()[0]

    def _require_open(self) -> tuple[EngineInfo, VoiceLibrary]:
        status, info = self.status(), self._engine.info
        if not status.takes_requests or info is None or not self._is_open:
            detail = f": {status.detail}" if status.detail else ""
            raise EngineUnavailableError(
                f"the service cannot speak now, it is {status.state.value}{detail}; GET /health "
                "tells when it can"
            )
        return info, self.voice_service.library
