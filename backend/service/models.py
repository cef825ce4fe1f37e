"""The models that are installed: the loaded one, the pocket voice, and what is in MODELS_DIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.model_location import MARKER_FILE, POCKET_DIR, POCKET_MODEL, S1_MINI_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from backend.core.settings import Settings

_LICENCES = {
    POCKET_MODEL: "Apache-2.0",
    S1_MINI_MODEL: "CC-BY-NC-SA-4.0: not for commercial use",
}
_UNKNOWN_LICENCE = "unknown here; see the model's own files"


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that can be loaded.

    Attributes:
        id: What ``MODEL`` has to be.
        is_loaded: Whether it is the one that speaks.
        licence: What may be done with it.
    """

    id: str
    is_loaded: bool
    licence: str


def installed_models(settings: Settings) -> tuple[InstalledModel, ...]:
    """Look for models; the loaded one comes first. Reads the disk, so call it in a thread."""
    ids = [settings.model]
    if (POCKET_DIR / MARKER_FILE).is_file():
        ids.append(POCKET_MODEL)
    ids += [_id_of(path) for path in _model_dirs(settings.models_dir.expanduser())]
    return tuple(
        InstalledModel(one, one == settings.model, _LICENCES.get(one, _UNKNOWN_LICENCE))
        for one in dict.fromkeys(ids)
    )


def _model_dirs(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if (path / MARKER_FILE).is_file())


def _id_of(path: Path) -> str:
    return path.name if path.name == S1_MINI_MODEL else str(path)
