"""The shelf: the store on the disk and, in step with it, what everybody sees of it in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from backend.core.errors import VoiceExistsError, VoiceReadOnlyError
from backend.service.voice_rules import VoiceDraft, voice_key
from backend.service.voices import Voice, VoiceLibrary, VoiceReference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.service.cpu_pool import CpuPool
    from backend.service.voice_index import StoredVoice
    from backend.service.voice_keeping import VoiceKeeper


class VoiceShelf:
    """All voices, and the one way to change them. Confined to the event loop.

    Args:
        store: The added voices.
        pool: Threads that read and write it.

    Attributes:
        library: All voices as they are now.
        revision: Names the loaded codec; empty before ``open``.
    """

    def __init__(self, store: VoiceKeeper, pool: CpuPool) -> None:
        self._store = store
        self._pool = pool
        self._builtin: tuple[Voice, ...] = ()
        self._builtin_keys: frozenset[str] = frozenset()
        self._stored: dict[str, StoredVoice] = {}
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self.library = VoiceLibrary(())
        self.revision = ""

    async def open(self, builtin: Sequence[Voice], revision: str) -> None:
        """Read the store.

        Args:
            builtin: The model's own voices.
            revision: Of the model's codec.

        Raises:
            VoiceStorageError: It cannot be read.
        """
        self._builtin = tuple(builtin)
        self._builtin_keys = frozenset(voice_key(voice.name) for voice in builtin)
        self.revision = revision
        self._show(*await self._pool.run(lambda: self._seen(self._store.open())))

    async def refresh(self) -> None:
        """Show what other processes have changed in the store.

        Raises:
            VoiceStorageError: It cannot be read.
        """
        async with self._lock:
            if await self._pool.run(self._store.has_news):
                self._show(*await self._pool.run(lambda: self._seen(self._store.all())))

    async def close(self) -> None:
        """Wait for changes that are being written, and close the store."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._pool.run(self._store.close)

    def stored(self, voice: Voice) -> StoredVoice | None:
        """Give what the store knows of a voice; None for a model's own and a deleted one."""
        return self._stored.get(voice.id)

    def require_stored(self, name: str) -> StoredVoice:
        """Find a voice that can be changed, by name or id.

        Raises:
            VoiceNotFoundError: No voice has this name or id.
            VoiceReadOnlyError: It came with the model.
        """
        voice = self.library.find(name)
        stored = self._stored.get(voice.id)
        if stored is None:
            raise VoiceReadOnlyError(
                f"the voice {voice.name!r} came with the model and cannot be changed; export it "
                "and import it under another name to have one that can"
            )
        return stored

    def refuse_taken(self, name: str) -> None:
        """Refuse early what the index would refuse after all the work.

        Raises:
            VoiceExistsError: The name is taken.
        """
        if self.library.has_name(name):
            raise VoiceExistsError(
                f"there is a voice {name!r} already; choose another name, or delete it first"
            )

    async def commit(self, change: Callable[[], StoredVoice]) -> Voice:
        """Run a change of one voice and give the voice as it is then."""
        changed: list[StoredVoice] = []
        await self.write(lambda: changed.append(change()))
        return self.voice_of(changed[0])

    async def write(self, change: Callable[[], object]) -> None:
        """Run a change of the store in a thread and show its outcome.

        Both happen even when the caller is cancelled meanwhile: what is seen must not differ from
        the disk.
        """
        writing = asyncio.ensure_future(self._write_and_publish(change))
        self._writes.add(writing)
        writing.add_done_callback(self._forget)
        await asyncio.shield(writing)

    def voice_of(self, stored: StoredVoice) -> Voice:
        """Give a stored voice as everybody sees it."""
        draft = stored.draft
        return Voice(
            id=stored.id,
            name=draft.name,
            references=tuple(
                VoiceReference(reference.text, reference.duration_s, reference.has_audio)
                for reference in stored.references
            ),
            description=draft.description,
            language=draft.language,
            tags=draft.tags,
            consent=draft.consent,
            created_at=stored.created_at,
            updated_at=stored.updated_at,
            problem=self._problem_of(stored),
        )

    async def _write_and_publish(self, change: Callable[[], object]) -> None:
        def run() -> tuple[dict[str, StoredVoice], VoiceLibrary]:
            change()
            return self._seen(self._store.all())

        async with self._lock:
            self._show(*await self._pool.run(run))

    def _forget(self, writing: asyncio.Task[None]) -> None:
        self._writes.discard(writing)
        if not writing.cancelled():
            writing.exception()  # read once, so that asyncio does not report it as forgotten

    def _seen(self, stored: Sequence[StoredVoice]) -> tuple[dict[str, StoredVoice], VoiceLibrary]:
        """Make what ``_show`` shows. For a thread: with thousands of voices it takes a while."""
        by_id = {voice.id: voice for voice in stored}
        return by_id, VoiceLibrary([*self._builtin, *map(self.voice_of, stored)])

    def _show(self, stored: dict[str, StoredVoice], library: VoiceLibrary) -> None:
        self._stored, self.library = stored, library

    def _problem_of(self, stored: StoredVoice) -> str:
        if voice_key(stored.draft.name) in self._builtin_keys:
            return (
                "the loaded model has a voice of the same name; use the id, or give this one "
                "another name"
            )
        return codec_problem(stored, self.revision)


def codec_problem(voice: StoredVoice, revision: str) -> str:
    """Say why a voice cannot speak with the codec ``revision``; empty when it can."""
    lost = [
        reference
        for reference in voice.references
        if reference.codec_revision != revision and not reference.has_audio
    ]
    if not lost:
        return ""
    return (
        f"it was made with another codec ({lost[0].codec_revision}; this one is {revision}) "
        "and its recording was not kept; add it again from the recording"
    )


def draft_of(voice: Voice) -> VoiceDraft:
    """Give what is said about a voice."""
    return VoiceDraft(
        name=voice.name,
        language=voice.language,
        tags=voice.tags,
        consent=voice.consent,
        description=voice.description,
    )
