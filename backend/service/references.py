"""Whose voice it is: a named one, an uploaded recording, or one drawn by the seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.audio.decode import decode_audio
from backend.core.errors import InvalidInputError
from backend.core.types import Turn
from backend.service.cache import VoiceCodesCache, voice_codes_key
from backend.service.ledger import VOICE_CODES
from backend.service.text import tidy_text
from backend.telemetry.recent import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.service.ledger import SpeechLedger
    from backend.service.requests import SpeechRequest, UploadedReference
    from backend.service.voice_library import VoiceService
    from backend.service.voices import VoiceLibrary

UPLOADED_VOICE = "upload"
NO_TRANSCRIPT_WARNING = (
    "no prompt_text: the voice is copied better when you send what is said in the recording"
)


@dataclass(frozen=True, slots=True)
class ReferenceVoice:
    """The voice of a request.

    Attributes:
        name: Of the voice, ``UPLOADED_VOICE``, or None for one drawn by the seed.
        turns: What was said before in this voice; empty when it is drawn.
    """

    name: str | None
    turns: tuple[Turn, ...]


class ReferenceVoices:
    """Find or make the reference of a request. Confined to the event loop.

    Args:
        engine: Encodes recordings.
        cache: Codes of recordings that were encoded before.
        pool: Decodes recordings.
        settings: Limits on recordings.
        voices: Gives the codes of named voices.
    """

    def __init__(
        self,
        engine: EngineClient,
        cache: VoiceCodesCache,
        pool: CpuPool,
        settings: Settings,
        voices: VoiceService,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._pool = pool
        self._settings = settings
        self._voices = voices

    async def resolve(
        self, request: SpeechRequest, library: VoiceLibrary, info: EngineInfo, ledger: SpeechLedger
    ) -> ReferenceVoice:
        """Give the voice that the request asks for.

        Raises:
            InvalidInputError: It asks for two at once.
            VoiceNotFoundError: No voice has the name.
            VoiceUnusableError: The voice was made with another codec.
            InvalidAudioError: The recording cannot be used.
        """
        if request.reference is not None:
            if request.voice is not None:
                raise InvalidInputError(
                    "voice and speaker_file exclude each other; send one of the two"
                )
            recordings = (request.reference, *request.further_references)
            turns = [await self._encode(recording, info, ledger) for recording in recordings]
            return ReferenceVoice(UPLOADED_VOICE, tuple(turns))
        voice = library.default if request.voice is None else library.find(request.voice)
        if voice is None:
            return ReferenceVoice(None, ())
        return ReferenceVoice(voice.name, await self._voices.turns(voice))

    async def _encode(
        self, reference: UploadedReference, info: EngineInfo, ledger: SpeechLedger
    ) -> Turn:
        text = tidy_text(reference.text)
        if len(text) > self._settings.max_text_chars:
            raise InvalidInputError(
                f"prompt_text has {len(text)} characters; it is what is said in the recording, so "
                f"at most {self._settings.max_text_chars} are accepted"
            )
        if not text and NO_TRANSCRIPT_WARNING not in ledger.warnings:
            ledger.warnings.append(NO_TRANSCRIPT_WARNING)
        started = time.monotonic()
        codes, is_hit = await self.encode(reference.content, info)
        ledger.note_cache(VOICE_CODES, is_hit=is_hit)
        ledger.add_stage(Stage.ENCODE_REFERENCE, time.monotonic() - started)
        return Turn(text, codes)

    async def encode(self, content: bytes, info: EngineInfo) -> tuple[NDArray[np.int32], bool]:
        """Turn a recording into codes ``[K, F]``; also tells whether they were known already.

        Raises:
            InvalidAudioError: The recording cannot be used.
        """
        samples, key = await self._pool.run(self._decode, content, info)
        return await self._cache.get_or_encode(key, lambda: self._engine.encode_reference(samples))

    def _decode(self, content: bytes, info: EngineInfo) -> tuple[NDArray[np.float32], str]:
        """Give ``[S]`` float32 samples at the engine's rate and their cache key. For a thread."""
        recording = decode_audio(
            content,
            target_sample_rate=info.sample_rate,
            max_duration_s=self._settings.max_reference_s,
            min_duration_s=self._settings.min_reference_s,
        )
        return recording.samples, voice_codes_key(recording.samples, info)
