"""Where a model's files are: the setting ``MODEL`` turned into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from backend.core.settings import Settings

POCKET_MODEL = "pocket"
S1_MINI_MODEL = "openaudio-s1-mini"
POCKET_DIR = Path(__file__).resolve().parents[1] / "pocket"
MARKER_FILE = "config.json"
"""Every kind of model directory has this file; a directory without it is no model."""


def resolve_model_dir(settings: Settings) -> Path:
    """Find the directory of ``settings.model``.

    Returns:
        An existing directory with a ``config.json``; what else is in it is the loader's concern.

    Raises:
        CheckpointError: There is none; the message lists what was tried and names the fix.
    """
    if settings.model == POCKET_MODEL:
        candidate, fix = POCKET_DIR, "the pocket voice is part of the project: check it out again"
    elif settings.model == S1_MINI_MODEL:
        candidate = settings.models_dir.expanduser() / S1_MINI_MODEL
        fix = "run: python scripts/download_model.py (or set MODELS_DIR to where the model is)"
    else:
        candidate = Path(settings.model).expanduser()
        fix = f"set MODEL to {POCKET_MODEL}, {S1_MINI_MODEL} or the path of a model directory"
    if (candidate / MARKER_FILE).is_file():
        return candidate.resolve()
    reason = f"no {MARKER_FILE} in it" if candidate.is_dir() else "no such directory"
    raise CheckpointError(f"MODEL={settings.model}: tried {candidate.absolute()} ({reason}); {fix}")
