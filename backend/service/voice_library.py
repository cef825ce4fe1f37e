"""The voices as the API sees them: the model's own and the added ones, as one shelf.

``VoiceService`` is asynchronous; what blocks runs in threads. Every dialect of the API uses it::

    added = await service.voice_service.add(VoiceDraft(name="Ada"), [UploadedReference(wav, "Hi.")])
    voices = await service.voice_service.list_voices()

A recording is encoded once, when it is added. Codes belong to one codec: after a change of the
model's codec they are made again from the kept recording when the voice is next used, and a voice
whose recording was not kept is listed with the reason why it cannot speak.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.errors import (
    EngineUnavailableError,
    InvalidVoiceError,
    VoiceLimitError,
    VoiceNotFoundError,
    VoiceStorageError,
)
from backend.service.codec_revision import codec_revision
from backend.service.object_place import ObjectPlace
from backend.service.object_voices import LOOK_EVERY_S, ObjectVoiceStore
from backend.service.voice_bundle import BundledReference, VoiceBundle, pack_bundle, read_bundle
from backend.service.voice_codes import StoredVoiceCodes, preview_file
from backend.service.voice_intake import RecordingIntake
from backend.service.voice_rules import MAX_REFERENCES, VoiceChanges, VoiceDraft, voice_key
from backend.service.voice_shelf import VoiceShelf, draft_of
from backend.service.voice_store import VoiceStore
from backend.service.voices import Voice, VoiceLibrary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.audio.clinic import ClinicReport
    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import EngineInfo, Turn
    from backend.service.cache import VoiceCodesCache
    from backend.service.cpu_pool import CpuPool
    from backend.service.requests import UploadedReference
    from backend.service.voice_index import StoredVoice
    from backend.service.voice_keeping import VoiceKeeper

logger = logging.getLogger(__name__)

STORE_SUBDIR = "voices"
PREVIEW_S = 15.0
"""At most so much of a voice's first recording is played."""


@dataclass(frozen=True, slots=True)
class AddedVoice:
    """A voice and what the clinic found in the recordings that came.

    Attributes:
        voice: As it is now.
        reports: One for each recording of the call, in order.
    """

    voice: Voice
    reports: tuple[ClinicReport, ...]


class VoiceService:
    """Keep the voices. Confined to the event loop.

    Life: made -> ``open`` -> any calls -> ``close``. Before ``open`` every call raises
    ``EngineUnavailableError``. Names are looked up whatever their case; ids work too.

    Args:
        engine: Encodes recordings and plays codes.
        settings: Where voices are stored and how many.
        model_dir: Where the model's own voices are.
        pool: Threads for everything that blocks.
        cache: Codes that were read or made lately.
    """

    def __init__(
        self,
        engine: EngineClient,
        settings: Settings,
        model_dir: Path,
        pool: CpuPool,
        cache: VoiceCodesCache,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._model_dir = model_dir
        self._pool = pool
        self._store = _keeper(settings)
        self._shelf = VoiceShelf(self._store, pool)
        self._is_open = False
        self._watch: asyncio.Task[None] | None = None
        self._intake = RecordingIntake(engine, pool, settings)
        self._codes = StoredVoiceCodes(self._store, self._intake, pool, cache, self._shelf.write)

    async def open(self, info: EngineInfo) -> None:
        """Read the model's voices and the stored ones; clear up after a crash.

        Raises:
            CheckpointError: A voice file of the model is unusable.
            VoiceStorageError: The folder of stored voices cannot be read.
        """
        builtin = await self._pool.run(VoiceLibrary.load, self._model_dir, info)
        revision = await self._pool.run(codec_revision, self._model_dir, info)
        await self._shelf.open(builtin.voices, revision)
        self._is_open = True
        if self._settings.voices_url:
            self._watch = asyncio.create_task(self._look_again_and_again())

    async def refresh(self) -> None:
        """Show the voices that other processes on the same folder have added or changed.

        Raises:
            VoiceStorageError: The folder of stored voices cannot be read.
        """
        if self._is_open:
            await self._shelf.refresh()

    async def close(self) -> None:
        """Wait for changes that are being written, and close the index."""
        self._is_open = False
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        await self._shelf.close()

    @property
    def library(self) -> VoiceLibrary:
        """All voices as they are now."""
        return self._shelf.library

    @property
    def codec_revision(self) -> str:
        """Names the loaded codec; voices made with another one have to be encoded again."""
        return self._shelf.revision

    async def list_voices(self) -> tuple[Voice, ...]:
        """Give all voices by name, those that cannot speak included (see ``Voice.problem``)."""
        self._info()
        return self.library.voices

    async def get(self, name: str) -> Voice:
        """Give one voice.

        Raises:
            VoiceNotFoundError: No voice has this name or id.
        """
        return self._find(name)

    async def turns(self, voice: Voice) -> tuple[Turn, ...]:
        """Give words and codes of every recording, encoding again what another codec made.

        Raises:
            VoiceNotFoundError: It was deleted meanwhile.
            VoiceUnusableError: It cannot speak with this model; the message says why.
        """
        if voice.turns:
            return voice.turns
        stored = self._shelf.stored(voice)
        if stored is None:
            raise VoiceNotFoundError(f"the voice {voice.name!r} was deleted meanwhile")
        return await self._codes.turns(stored, self._info(), self.codec_revision)

    async def examine(self, content: bytes) -> ClinicReport:
        """Look at a recording without keeping it; up to ten minutes of it.

        Raises:
            InvalidAudioError: It is not audio, damaged, silent or longer than that.
        """
        return await self._intake.examine(content, self._info())

    async def add(
        self,
        draft: VoiceDraft,
        recordings: Sequence[UploadedReference],
        *,
        keep_audio: bool = True,
    ) -> AddedVoice:
        """Add a voice made of one or several recordings.

        Args:
            draft: Its name and what else is said about it.
            recordings: 1 to ``MAX_REFERENCES``, best of 5 to 30 s, each with what is said in it.
            keep_audio: Keep the recordings themselves too, so that the voice survives a change of
                the model's codec.

        Raises:
            InvalidVoiceError: The name or another field cannot be stored.
            InvalidAudioError: A recording cannot be used; the message says why.
            PromptTooLongError: The recordings together leave no room for speech.
            VoiceExistsError: The name is taken.
            VoiceLimitError: Too many voices, or recordings.
            VoiceStorageError: The disk failed.
        """
        checked = draft.checked()
        if not recordings:
            raise InvalidVoiceError("audio: the voice needs a recording; send one as audio")
        _refuse_excess(len(recordings))
        self._shelf.refuse_taken(checked.name)
        info = self._info()
        taken = [
            await self._intake.take(recording, info, self.codec_revision, keep_audio=keep_audio)
            for recording in recordings
        ]
        references = [reference for reference, _ in taken]
        await self._intake.require_room([reference.turn for reference in references], info)
        voice = await self._shelf.commit(lambda: self._store.add(checked, references))
        return AddedVoice(voice, tuple(report for _, report in taken))

    async def add_reference(
        self, name: str, recording: UploadedReference, *, keep_audio: bool = True
    ) -> AddedVoice:
        """Add one more recording to a voice.

        Raises:
            VoiceReadOnlyError: The voice came with the model.
            Exception: As ``get`` and ``add``.
        """
        stored = self._stored(name)
        _refuse_excess(len(stored.references) + 1)
        info = self._info()
        reference, report = await self._intake.take(
            recording, info, self.codec_revision, keep_audio=keep_audio
        )
        turns = await self._codes.turns(stored, info, self.codec_revision)
        await self._intake.require_room([*turns, reference.turn], info)
        voice = await self._shelf.commit(lambda: self._store.add_reference(stored.id, reference))
        return AddedVoice(voice, (report,))

    async def remove_reference(self, name: str, idx: int) -> Voice:
        """Remove a voice's recording number ``idx``, counted from 0; not its last one.

        Raises:
            InvalidVoiceError: It is the last one.
            VoiceReadOnlyError: The voice came with the model.
            VoiceNotFoundError: No voice has this name or id, or it has no such recording.
        """
        stored = self._stored(name)
        return await self._shelf.commit(lambda: self._store.remove_reference(stored.id, idx))

    async def update(self, name: str, changes: VoiceChanges) -> Voice:
        """Change what is said about a voice, its name included.

        Raises:
            InvalidVoiceError: A field cannot be stored.
            VoiceExistsError: The new name is taken.
            VoiceReadOnlyError: The voice came with the model.
            VoiceNotFoundError: No voice has this name or id.
        """
        stored = self._stored(name)
        draft = changes.apply(stored.draft)
        if voice_key(draft.name) != voice_key(stored.draft.name):
            self._shelf.refuse_taken(draft.name)
        return await self._shelf.commit(lambda: self._store.update(stored.id, draft))

    async def rename(self, name: str, new_name: str) -> Voice:
        """Give a voice another name; its id stays.

        Raises:
            Exception: As ``update``.
        """
        return await self.update(name, VoiceChanges(name=new_name))

    async def delete(self, name: str) -> Voice:
        """Delete a voice and give what it was.

        Raises:
            VoiceReadOnlyError: The voice came with the model.
            VoiceNotFoundError: No voice has this name or id.
        """
        stored = self._stored(name)
        voice = self._shelf.voice_of(stored)
        await self._shelf.write(lambda: self._store.delete(stored.id))
        return voice

    async def preview(self, name: str) -> bytes:
        """Give a voice's first recording as the model hears it: its codes, decoded. A WAV file.

        Raises:
            VoiceNotFoundError: No voice has this name or id.
            VoiceUnusableError: Its codes do not fit the model.
            QueueFullError: Too many requests are waiting.
        """
        info = self._info()
        codes = (await self.turns(self._find(name)))[0].codes
        num_frames = max(1, int(PREVIEW_S * info.frame_rate))
        return await preview_file(self._engine, codes[:, :num_frames], info, self._pool)

    async def export_bundle(self, name: str, *, include_audio: bool = False) -> bytes:
        """Give a voice as one ``.fishvoice`` file for another server.

        Args:
            name: Name or id.
            include_audio: Put kept recordings in too, so that a server with another codec can use
                it.

        Raises:
            VoiceNotFoundError: No voice has this name or id.
            VoiceUnusableError: Its codes do not fit the model.
        """
        voice = self._find(name)
        turns = await self.turns(voice)
        stored = self._shelf.stored(voice)
        audio: list[bytes | None] = [None] * len(turns)
        if include_audio and stored is not None:
            audio = await self._pool.run(self._store.read_audio, stored)
        bundle = VoiceBundle(
            draft=draft_of(voice),
            codec_revision=self.codec_revision,
            references=tuple(
                BundledReference(turn.text, turn.codes, reference.duration_s, content)
                for turn, reference, content in zip(turns, voice.references, audio, strict=True)
            ),
        )
        return await self._pool.run(pack_bundle, bundle)

    async def import_bundle(self, content: bytes, name: str | None = None) -> Voice:
        """Add a voice from a ``.fishvoice`` file.

        Args:
            content: The file.
            name: Another name than the one in the file.

        Raises:
            InvalidBundleError: It is no such file, is damaged, or was made with another codec and
                holds no recording.
            InvalidVoiceError: A field cannot be stored.
            VoiceExistsError: The name is taken.
            VoiceLimitError: As many voices are kept as may be.
        """
        info = self._info()
        max_bytes = self._settings.max_upload_mb << 20
        bundle = await self._pool.run(read_bundle, content, max_bytes)
        draft = VoiceChanges(name=name).apply(bundle.draft)
        self._shelf.refuse_taken(draft.name)
        references = await self._intake.from_bundle(bundle, info, self.codec_revision)
        return await self._shelf.commit(lambda: self._store.add(draft, references))

    async def _look_again_and_again(self) -> None:
        """See what other services do to the voices that they share with this one."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._shelf.refresh()
            except VoiceStorageError as error:
                logger.warning("%s", error)

    def _find(self, name: str) -> Voice:
        self._info()
        return self.library.find(name)

    def _stored(self, name: str) -> StoredVoice:
        self._info()
        return self._shelf.require_stored(name)

    def _info(self) -> EngineInfo:
        info = self._engine.info
        if info is None or not self.codec_revision:
            raise EngineUnavailableError("the voices are not there yet; GET /health tells when")
        return info


def _keeper(settings: Settings) -> VoiceKeeper:
    if settings.voices_url:
        place = ObjectPlace(settings.voices_url)
        return ObjectVoiceStore(place, settings.max_voices, LOOK_EVERY_S)
    return VoiceStore(settings.data_dir / STORE_SUBDIR, settings.max_voices)


def _refuse_excess(num_references: int) -> None:
    if num_references > MAX_REFERENCES:
        raise VoiceLimitError(
            f"a voice has at most {MAX_REFERENCES} recordings; send fewer, or remove one first"
        )
