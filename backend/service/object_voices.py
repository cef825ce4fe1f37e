"""Voices in an object store that several services share.

``records/<hash of the name>.json`` says what a voice is, ``blobs/<hash of the content>`` is what
its recordings are made of. There is no lock and no index. A record is written whole, after the
blobs it names, so everybody sees either the old voice or the new one; of two who change a voice at
the same moment the later one stays.

Two may also meet over a blob: one deletes what nobody names, the other is about to name it. Whoever
deletes keeps the content until it has looked at the records once more, and puts back what is named
by then; whoever names looks for its blobs after its record is there, and puts back what is gone.
One of the two always sees the other.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.core.errors import (
    InvalidVoiceError,
    VoiceExistsError,
    VoiceLimitError,
    VoiceNotFoundError,
)
from backend.service.codes_file import codes_from_npy, codes_to_npy
from backend.service.voice_index import StoredReference, StoredVoice
from backend.service.voice_record import RECORDS, pack_record, read_record, record_name
from backend.service.voice_rules import MAX_REFERENCES, voice_key
from backend.service.voice_store import now_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.service.object_place import ObjectPlace
    from backend.service.voice_keeping import NewReference
    from backend.service.voice_rules import VoiceDraft

logger = logging.getLogger(__name__)

BLOBS = "blobs"
LOOK_EVERY_S = 5.0
_ID_BYTES = 16
_RECORDING_ID_BITS = 62
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class _Known:
    """A record as it was read: its object's marks, and what it says; None when it is damaged."""

    marks: tuple[str, ...]
    voice: StoredVoice | None
    change: int


class ObjectVoiceStore:
    """Keep voices in an object store. A ``VoiceKeeper``.

    Args:
        place: Where.
        max_voices: Most voices that are kept.
        look_every_s: ``has_news`` looks no more often.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        place: ObjectPlace,
        max_voices: int,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._max_voices = max_voices
        self._look_every_s = look_every_s
        self._clock = clock
        self._looked_at: float | None = None
        self._known: dict[str, _Known] = {}
        self._is_shown = True
        self._lock = threading.RLock()

    def open(self) -> tuple[StoredVoice, ...]:
        """Read what is stored, and delete blobs that no voice names."""
        with self._lock:
            self._load()
            self._drop(name.removeprefix(f"{BLOBS}/") for name in self._place.marks(BLOBS))
            return self.all()

    def close(self) -> None:
        """Forget what was read; ``open`` may follow."""
        with self._lock:
            self._known, self._looked_at = {}, None

    def all(self) -> tuple[StoredVoice, ...]:
        """Give all voices by name, as they were when this store last looked."""
        with self._lock:
            self._is_shown = True
            return tuple(sorted(self._by_id().values(), key=lambda it: voice_key(it.draft.name)))

    def has_news(self) -> bool:
        """Look again, unless it was done a moment ago; tell whether ``all`` gives something new."""
        with self._lock:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= self._look_every_s:
                self._load()
            return not self._is_shown

    def add(self, draft: VoiceDraft, references: Sequence[NewReference]) -> StoredVoice:
        """Store a voice."""
        if not references:
            raise ValueError("a voice needs a recording")
        with self._lock:
            self._load()
            if len(self._by_id()) >= self._max_voices:
                raise VoiceLimitError(
                    f"{self._max_voices} voices are kept, which is the limit (MAX_VOICES); delete "
                    "one first"
                )
            self._refuse_taken(draft.name)
            blobs: dict[str, bytes] = {}
            stored = tuple(_stored(reference, blobs) for reference in references)
            now = now_text()
            voice = StoredVoice(secrets.token_hex(_ID_BYTES), draft, now, now, stored)
            return self._put(voice, 1, blobs, is_new=True)

    def update(self, voice_id: str, draft: VoiceDraft) -> StoredVoice:
        """Write over what is said about a voice. A new name is a new record; the id stays."""
        with self._lock:
            name, voice, change = self._found(voice_id)
            changed = replace(voice, draft=draft, updated_at=now_text())
            if record_name(draft.name) == name:
                return self._put(changed, change + 1, {})
            self._refuse_taken(draft.name)
            changed = self._put(changed, change + 1, {}, is_new=True)
            self._place.delete(name)
            self._load()
            return changed

    def delete(self, voice_id: str) -> None:
        """Delete a voice with its recordings."""
        with self._lock:
            _, voice, _ = self._found(voice_id)
            for name, known in list(self._known.items()):
                if known.voice is not None and known.voice.id == voice_id:
                    self._place.delete(name)
            self._drop(_blobs_of(voice))

    def add_reference(self, voice_id: str, reference: NewReference) -> StoredVoice:
        """Add a recording to a voice."""
        with self._lock:
            _, voice, change = self._found(voice_id)
            if len(voice.references) >= MAX_REFERENCES:
                raise VoiceLimitError(
                    f"a voice has at most {MAX_REFERENCES} recordings; remove one first"
                )
            blobs: dict[str, bytes] = {}
            references = (*voice.references, _stored(reference, blobs))
            changed = replace(voice, references=references, updated_at=now_text())
            return self._put(changed, change + 1, blobs)

    def remove_reference(self, voice_id: str, idx: int) -> StoredVoice:
        """Remove a voice's recording number ``idx``, counted from 0."""
        with self._lock:
            _, voice, change = self._found(voice_id)
            references = voice.references
            if not 0 <= idx < len(references):
                raise VoiceNotFoundError(
                    f"the voice has no recording {idx}; they are 0 to {len(references) - 1}"
                )
            if len(references) == 1:
                raise InvalidVoiceError(
                    "references: this is the voice's only recording; add another one first, or "
                    "delete the voice"
                )
            left = references[:idx] + references[idx + 1 :]
            changed = replace(voice, references=left, updated_at=now_text())
            changed = self._put(changed, change + 1, {})
            self._drop(_blobs_of(voice))
            return changed

    def replace_codes(self, recording_id: int, codes: NDArray[np.int32], revision: str) -> None:
        """Keep the codes that another codec made of a recording; does nothing when it is gone."""
        with self._lock:
            self._load()
            for voice in self._by_id().values():
                if any(reference.id == recording_id for reference in voice.references):
                    break
            else:
                return
            _, voice, change = self._found(voice.id)
            blobs: dict[str, bytes] = {}
            name = _added(codes_to_npy(codes), blobs)
            references = tuple(
                replace(reference, codes_sha256=name, codec_revision=revision)
                if reference.id == recording_id
                else reference
                for reference in voice.references
            )
            self._put(replace(voice, references=references), change + 1, blobs)
            self._drop(_blobs_of(voice))

    def read_codes(self, reference: StoredReference) -> NDArray[np.int32] | None:
        """Give a recording's codes ``[K, F]``; None when they are missing or damaged."""
        content = self._read(reference.codes_sha256)
        if content is None:
            return None
        try:
            return codes_from_npy(content)
        except ValueError:
            return None

    def read_one_audio(self, reference: StoredReference) -> bytes | None:
        """Give a recording as it came; None when it was not kept or is damaged."""
        return None if reference.audio_sha256 is None else self._read(reference.audio_sha256)

    def read_audio(self, voice: StoredVoice) -> list[bytes | None]:
        """Give every recording of a voice as ``read_one_audio`` does."""
        return [self.read_one_audio(reference) for reference in voice.references]

    def _load(self) -> None:
        """Read the records that are new or have changed."""
        marks = self._place.marks(RECORDS)
        changed = [
            name for name, mark in marks.items()
            if name not in self._known or self._known[name].marks != mark
        ]  # fmt: skip
        known = {name: self._known[name] for name in marks if name not in changed}
        for name, content in self._place.read_all(changed).items():
            known[name] = _read_known(content, name, marks[name])
        if known != self._known:
            self._is_shown = False
        self._known = known
        self._looked_at = self._clock()

    def _by_id(self) -> dict[str, StoredVoice]:
        """Give all voices; of one whose renaming was cut off, what was written last."""
        newest: dict[str, _Known] = {}
        for known in self._known.values():
            if known.voice is not None:
                other = newest.get(known.voice.id)
                if other is None or other.change < known.change:
                    newest[known.voice.id] = known
        return {key: known.voice for key, known in newest.items() if known.voice is not None}

    def _found(self, voice_id: str) -> tuple[str, StoredVoice, int]:
        """Look again and give a voice's record: its name, the voice, the number of its change."""
        self._load()
        voice = self._by_id().get(voice_id)
        if voice is None:
            raise VoiceNotFoundError("the voice was deleted meanwhile")
        name = record_name(voice.draft.name)
        return name, voice, self._known[name].change

    def _refuse_taken(self, name: str) -> None:
        if record_name(name) in self._known:
            raise VoiceExistsError(
                f"there is a voice {name!r} already; choose another name, or delete it first"
            )

    def _put(
        self,
        voice: StoredVoice,
        change: int,
        blobs: Mapping[str, bytes],
        *,
        is_new: bool = False,
    ) -> StoredVoice:
        """Write blobs, then the record that names them; then see that they are there.

        Raises:
            VoiceExistsError: The record was to be new and is not; the blobs are gone again.
        """
        for name, content in blobs.items():
            if self._read(name) is None:
                self._place.write(f"{BLOBS}/{name}", content)
        name, content = record_name(voice.draft.name), pack_record(voice, change)
        if not is_new:
            self._place.write(name, content)
        elif not self._place.create(name, content):
            self._drop(blobs)
            self._refuse_taken(voice.draft.name)
            raise VoiceExistsError(f"somebody else has just added {voice.draft.name!r}")
        missing = {blob for blob in _blobs_of(voice) if not self._place.exists(f"{BLOBS}/{blob}")}
        for blob in missing & blobs.keys():
            self._place.write(f"{BLOBS}/{blob}", blobs[blob])
        self._load()
        kept = _without(voice, missing - blobs.keys())
        if kept.references == voice.references or not kept.references:
            return voice
        # somebody removed a recording while this was written: it stays removed
        return self._put(kept, change + 1, {})

    def _drop(self, names: Iterable[str]) -> None:
        """Delete blobs that no record names, and put back what one names after all.

        None while a record is damaged: what it names is unknown, and repairing it must help.
        """
        self._load()
        if any(known.voice is None for known in self._known.values()):
            return
        unnamed = sorted(set(names) - self._named())
        for start in range(0, len(unnamed), _AT_A_TIME):
            taken: dict[str, bytes] = {}
            for name in unnamed[start : start + _AT_A_TIME]:
                content = self._place.read(f"{BLOBS}/{name}")
                if content is not None:
                    taken[name] = content
                    self._place.delete(f"{BLOBS}/{name}")
            self._load()
            for name in taken.keys() & self._named():
                self._place.write(f"{BLOBS}/{name}", taken[name])

    def _named(self) -> set[str]:
        voices = [known.voice for known in self._known.values() if known.voice is not None]
        return {name for voice in voices for name in _blobs_of(voice)}

    def _read(self, name: str) -> bytes | None:
        content = self._place.read(f"{BLOBS}/{name}")
        if content is None or hashlib.sha256(content).hexdigest() != name:
            return None
        return content


def _read_known(content: bytes, name: str, marks: tuple[str, ...]) -> _Known:
    try:
        voice, change = read_record(content, name)
    except ValueError as error:
        logger.warning("a voice is left out: %s", error)
        return _Known(marks, None, 0)
    return _Known(marks, voice, change)


def _stored(reference: NewReference, blobs: dict[str, bytes]) -> StoredReference:
    return StoredReference(
        secrets.randbits(_RECORDING_ID_BITS),
        reference.text,
        reference.duration_s,
        _added(codes_to_npy(reference.codes), blobs),
        reference.codec_revision,
        None if reference.audio is None else _added(reference.audio, blobs),
    )


def _added(content: bytes, blobs: dict[str, bytes]) -> str:
    name = hashlib.sha256(content).hexdigest()
    blobs[name] = content
    return name


def _blobs_of(voice: StoredVoice) -> set[str]:
    named = {reference.codes_sha256 for reference in voice.references}
    return named | {it.audio_sha256 for it in voice.references if it.audio_sha256 is not None}


def _without(voice: StoredVoice, missing: set[str]) -> StoredVoice:
    return replace(
        voice,
        references=tuple(it for it in voice.references if it.codes_sha256 not in missing),
    )
