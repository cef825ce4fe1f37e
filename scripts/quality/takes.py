"""Takes of one setting: what was spoken, kept as codes in one small file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Takes:
    """What one setting spoke.

    Attributes:
        facts: Of the machine and the engine: device, settings, notes.
        texts: What was to be said.
        voices: In whose voice.
        codes: ``[K, F]`` int32 of each text.
    """

    facts: dict[str, Any]
    texts: list[str]
    voices: list[str]
    codes: list[NDArray[np.int32]]

    def write(self, path: Path) -> None:
        """Write them; the lengths say where one text's codes end."""
        told = {"facts": self.facts, "texts": self.texts, "voices": self.voices}
        np.savez_compressed(
            path,
            told=np.array(json.dumps(told)),
            lengths=np.array([each.shape[1] for each in self.codes]),
            codes=np.concatenate(self.codes, axis=1).astype(np.int16),
        )

    @classmethod
    def read(cls, path: Path) -> Takes:
        """Read what ``write`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["told"]))
            ends = np.cumsum(file["lengths"])[:-1]
            codes = [part.astype(np.int32) for part in np.split(file["codes"], ends, axis=1)]
        return cls(told["facts"], told["texts"], told["voices"], codes)
