"""The codes of stored voices: read, checked, made again when another codec wrote them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from backend.audio.encoders import encode_whole
from backend.core.errors import InvalidAudioError, VoiceUnusableError
from backend.core.types import Turn
from backend.service.bare_codec import decode_codes
from backend.service.codes_file import codes_fit
from backend.service.voice_shelf import codec_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.types import EngineInfo
    from backend.service.cache import VoiceCodesCache
    from backend.service.cpu_pool import CpuPool
    from backend.service.voice_index import StoredReference, StoredVoice
    from backend.service.voice_intake import RecordingIntake
    from backend.service.voice_keeping import VoiceKeeper


class StoredVoiceCodes:
    """Give the turns of stored voices. Confined to the event loop.

    Args:
        store: Where the codes are.
        intake: Encodes recordings again.
        pool: Threads that read the disk.
        cache: Codes that were read or made lately; shares work between requests.
        write: Runs a change of the store.
    """

    def __init__(
        self,
        store: VoiceKeeper,
        intake: RecordingIntake,
        pool: CpuPool,
        cache: VoiceCodesCache,
        write: Callable[[Callable[[], object]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._intake = intake
        self._pool = pool
        self._cache = cache
        self._write = write

    async def turns(self, voice: StoredVoice, info: EngineInfo, revision: str) -> tuple[Turn, ...]:
        """Give words and codes of every recording.

        Raises:
            VoiceUnusableError: Codes are another codec's or damaged, and the recording was not
                kept.
        """
        problem = codec_problem(voice, revision)
        if problem:
            raise VoiceUnusableError(f"the voice {voice.draft.name!r} cannot speak: {problem}")
        turns: list[Turn] = []
        for reference in voice.references:
            codes, _ = await self._cache.get_or_encode(
                f"stored {reference.id} {reference.codes_sha256} {revision}",
                lambda reference=reference: self._codes_of(voice, reference, info, revision),
            )
            turns.append(Turn(reference.text, codes))
        return tuple(turns)

    async def _codes_of(
        self, voice: StoredVoice, reference: StoredReference, info: EngineInfo, revision: str
    ) -> NDArray[np.int32]:
        if reference.codec_revision == revision:
            codes = await self._pool.run(self._store.read_codes, reference)
            if codes is not None and codes_fit(codes, info):
                return codes
        audio = await self._pool.run(self._store.read_one_audio, reference)
        if audio is None:
            raise VoiceUnusableError(
                f"the voice {voice.draft.name!r} cannot speak: its stored codes are damaged and "
                "its recording was not kept; delete it and add it again"
            )
        try:
            codes = await self._intake.encode_again(audio, info)
        except InvalidAudioError as error:
            raise VoiceUnusableError(
                f"the voice {voice.draft.name!r} cannot speak: its recording has to be encoded "
                f"again, but {error}"
            ) from error
        await self._write(lambda: self._store.replace_codes(reference.id, codes, revision))
        return codes


async def preview_file(
    engine: EngineClient, codes: NDArray[np.int32], info: EngineInfo, pool: CpuPool
) -> bytes:
    """Give ``[K, F]`` codes as the sound they stand for, a WAV file.

    Raises:
        QueueFullError: Too many requests are waiting.
    """
    samples = await decode_codes(engine, codes, info, f"preview-{secrets.token_hex(8)}")
    return await pool.run(encode_whole, "wav", samples, info.sample_rate)
