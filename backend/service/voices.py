"""The voices that ship with a model: ``<model directory>/voices/*.json``.

One file is one voice: ``name``, ``text`` (what is said in the sample), ``codes`` ``[K][F]`` (the
sample as the model's codec wrote it), and optionally ``description``, ``language``, ``default``.
Codes belong to one codec, so a file that does not fit the loaded model stops the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.core.errors import CheckpointError, VoiceNotFoundError
from backend.core.types import Turn

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from backend.core.types import EngineInfo

VOICES_SUBDIR = "voices"


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice to choose by name.

    Attributes:
        name: What a request says.
        turn: The sample: its words and its codes.
        duration_s: Length of the sample.
        description: One line for people, possibly empty.
        language: ISO 639-1 code of the sample, or empty when nobody said.
        is_default: Taken when a request names no voice.
    """

    name: str
    turn: Turn
    duration_s: float
    description: str = ""
    language: str = ""
    is_default: bool = False


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
    """The voices of one model, read once. Immutable, so any thread may read it."""

    def __init__(self, voices: tuple[Voice, ...]) -> None:
        self.voices = voices
        self._by_name = {voice.name.casefold(): voice for voice in voices}

    @classmethod
    def load(cls, directory: Path, info: EngineInfo) -> VoiceLibrary:
        """Read all voices of a model directory; one without ``voices/`` has none.

        Args:
            directory: The model directory.
            info: The loaded model, whose codebooks the codes must fit.

        Raises:
            CheckpointError: A file is no voice, does not fit the model, or repeats a name.
        """
        paths = sorted((directory / VOICES_SUBDIR).glob("*.json"))
        parsed = [(_parse(path), path) for path in paths]
        names = [voice.name.casefold() for voice, _ in parsed]
        for (voice, path), name in zip(parsed, names, strict=True):
            if names.count(name) > 1:
                raise CheckpointError(f"{path}: the voice name {voice.name!r} is taken twice")
        flagged = [voice.name for voice, _ in parsed if voice.default]
        if len(flagged) > 1:
            raise CheckpointError(f"{directory}: several default voices: {', '.join(flagged)}")
        ordered = sorted(parsed, key=lambda item: item[0].name.casefold())
        default = (flagged or [voice.name for voice, _ in ordered[:1]] or [""])[0]
        return cls(tuple(_checked(voice, path, info, default) for voice, path in ordered))

    @property
    def default(self) -> Voice | None:
        """The voice of requests that name none: the flagged one, else the first by name."""
        return next((voice for voice in self.voices if voice.is_default), None)

    def find(self, name: str) -> Voice:
        """Look a voice up; case does not matter.

        Raises:
            VoiceNotFoundError: No such voice; the message lists the known ones.
        """
        voice = self._by_name.get(name.strip().casefold())
        if voice is None:
            known = ", ".join(voice.name for voice in self.voices)
            hint = f"known voices: {known}" if known else "this model comes without voices"
            raise VoiceNotFoundError(
                f"there is no voice {name[:64]!r}; {hint}; or send a recording as speaker_file"
            )
        return voice


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
        name=parsed.name,
        turn=Turn(text=parsed.text, codes=codes),
        duration_s=codes.shape[1] / info.frame_rate,
        description=parsed.description,
        language=parsed.language,
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
