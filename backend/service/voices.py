"""The voices to choose from: those that ship with a model and those that were added.

A model's own are in ``<model directory>/voices/*.json``. One file is one voice: ``name``, ``text``
(what is said in the sample), ``codes`` ``[K][F]`` (the sample as the model's codec wrote it), and
optionally ``description``, ``language``, ``default``. Codes belong to one codec, so a file that
does not fit the loaded model stops the start. Added voices come from ``voice_store.py``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.core.errors import CheckpointError, VoiceNotFoundError
from backend.core.types import Turn
from backend.service.voice_rules import voice_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from backend.core.types import EngineInfo

VOICES_SUBDIR = "voices"
ID_DIGITS = 32
MAX_NAMES_LISTED = 40
"""In a message."""


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """One recording of a voice.

    Attributes:
        text: What is said in it; empty when nobody said.
        duration_s: Its length.
        has_audio: Whether the recording itself is kept beside its codes.
    """

    text: str
    duration_s: float
    has_audio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice to choose by name.

    Attributes:
        id: 32 hexadecimal digits; a new name leaves it as it is.
        name: What a request says.
        references: Its recordings, at least one.
        turns: Words and codes of a model's own voice. Empty for an added one, whose codes are read
            when they are needed.
        description: One line for people, possibly empty.
        language: ISO 639-1 code of the recordings, or empty when nobody said.
        tags: Words to search by.
        consent: Who allowed the use of this voice, in the words of whoever added it.
        created_at: UTC, ISO 8601; empty for a model's own.
        updated_at: As ``created_at``.
        is_builtin: It came with the model and cannot be changed.
        is_default: Taken when a request names no voice.
        problem: Why it cannot speak with the loaded model; empty when it can.
    """

    id: str
    name: str
    references: tuple[VoiceReference, ...]
    turns: tuple[Turn, ...] = ()
    description: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()
    consent: str = ""
    created_at: str = ""
    updated_at: str = ""
    is_builtin: bool = False
    is_default: bool = False
    problem: str = ""

    @property
    def turn(self) -> Turn:
        """The one recording of a model's own voice."""
        return self.turns[0]

    @property
    def text(self) -> str:
        """What is said in the first recording."""
        return self.references[0].text

    @property
    def duration_s(self) -> float:
        """Length of all recordings together."""
        return sum(reference.duration_s for reference in self.references)


class _VoiceFile(BaseModel):
    """What is read from a voice file; other keys (where the sample came from) are left alone."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(pattern=r"^[^\s/\\][^/\\\r\n]{0,63}$")]
    text: str
    codes: list[list[int]]
    description: str = ""
    language: str = ""
    default: bool = False


class VoiceLibrary:
    """All voices at one moment, by name. Immutable, so any thread may read it."""

    def __init__(self, voices: Iterable[Voice]) -> None:
        self.voices = tuple(sorted(voices, key=lambda voice: voice_key(voice.name)))
        self._by_id = {voice.id: voice for voice in self.voices}
        # the model's own come last, so they win where an added voice has the same name
        by_rank = sorted(self.voices, key=lambda voice: voice.is_builtin)
        self._by_name = {voice_key(voice.name): voice for voice in by_rank}

    @classmethod
    def load(cls, directory: Path, info: EngineInfo) -> VoiceLibrary:
        """Read the voices of a model directory; one without ``voices/`` has none.

        Args:
            directory: The model directory.
            info: The loaded model, whose codebooks the codes must fit.

        Raises:
            CheckpointError: A file is no voice, does not fit the model, or repeats a name.
        """
        paths = sorted((directory / VOICES_SUBDIR).glob("*.json"))
        parsed = [(_parse(path), path) for path in paths]
        names = [voice_key(voice.name) for voice, _ in parsed]
        for (voice, path), name in zip(parsed, names, strict=True):
            if names.count(name) > 1:
                raise CheckpointError(f"{path}: the voice name {voice.name!r} is taken twice")
        flagged = [voice.name for voice, _ in parsed if voice.default]
        if len(flagged) > 1:
            raise CheckpointError(f"{directory}: several default voices: {', '.join(flagged)}")
        ordered = sorted(parsed, key=lambda item: voice_key(item[0].name))
        default = (flagged or [voice.name for voice, _ in ordered[:1]] or [""])[0]
        return cls(_checked(voice, path, info, default) for voice, path in ordered)

    @property
    def default(self) -> Voice | None:
        """The voice of requests that name none: the flagged one, else the first by name."""
        return next((voice for voice in self.voices if voice.is_default), None)

    def find(self, name: str) -> Voice:
        """Look a voice up by its name, whatever the case, or by its id.

        Raises:
            VoiceNotFoundError: No such voice; the message lists the known ones.
        """
        voice = self._by_name.get(voice_key(name)) or self._by_id.get(name.strip())
        if voice is None:
            raise VoiceNotFoundError(
                f"there is no voice {name[:64]!r}; {self._known()}; or send a recording as "
                "speaker_file"
            )
        return voice

    def has_name(self, name: str) -> bool:
        """Tell whether a voice has this name, whatever the case."""
        return voice_key(name) in self._by_name

    def _known(self) -> str:
        if not self.voices:
            return "this model comes without voices, and none was added"
        names = [voice.name for voice in self.voices[:MAX_NAMES_LISTED]]
        more = len(self.voices) - len(names)
        return f"known voices: {', '.join(names)}" + (f" and {more} more" if more else "")


def builtin_id(name: str) -> str:
    """Give the id of a model's own voice: the same after every start."""
    return hashlib.sha256(f"built-in voice {voice_key(name)}".encode()).hexdigest()[:ID_DIGITS]


def _parse(path: Path) -> _VoiceFile:
    try:
        return _VoiceFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise CheckpointError(f"{path}: {where}: {first['msg']}") from error


def _checked(parsed: _VoiceFile, path: Path, info: EngineInfo, default: str) -> Voice:
    codes = _as_codes(parsed.codes, path, info)
    return Voice(
        id=builtin_id(parsed.name),
        name=parsed.name,
        references=(VoiceReference(parsed.text, codes.shape[1] / info.frame_rate),),
        turns=(Turn(text=parsed.text, codes=codes),),
        description=parsed.description,
        language=parsed.language,
        is_builtin=True,
        is_default=parsed.name == default,
    )


def _as_codes(rows: list[list[int]], path: Path, info: EngineInfo) -> NDArray[np.int32]:
    """Give ``[K, F]`` int32, ``F >= 1``, every code inside its codebook."""
    if len(rows) != info.num_codebooks or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise CheckpointError(
            f"{path}: codes must be {info.num_codebooks} rows of equal length, one for each "
            f"codebook of {info.model}"
        )
    codes = np.asarray(rows, dtype=np.int64)
    sizes = np.asarray(info.codebook_sizes, dtype=np.int64)[:, None]
    if bool(((codes < 0) | (codes >= sizes)).any()):
        raise CheckpointError(f"{path}: a code lies outside its codebook; another codec made it?")
    frozen = codes.astype(np.int32)
    frozen.setflags(write=False)
    return frozen
