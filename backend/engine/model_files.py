"""What a model directory holds beside weights: its sampling defaults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from backend.core.errors import CheckpointError
from backend.core.types import SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

BOUNDS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 20),
    "repetition_penalty": (0.1, 2.0),
    "max_new_tokens": (1, 1 << 20),
}


def read_sampling_defaults(directory: Path) -> SamplingParams:
    """Read ``generation.json``, the checkpoint's own sampling defaults.

    Without the file (the official directory has none) these are the official defaults.

    Raises:
        CheckpointError: The file is malformed; the message names the key.
    """
    path = directory / "generation.json"
    if not path.is_file():
        return SamplingParams()
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    for key, value in values.items():
        if key not in BOUNDS:
            raise CheckpointError(f"{path}: unknown key {key!r}; known are {', '.join(BOUNDS)}")
        low, high = BOUNDS[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise CheckpointError(f"{path}: {key} must be a number in {low}..{high}, not {value!r}")
    return SamplingParams(**values)
