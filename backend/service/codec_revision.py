"""Which codec made some codes: they mean sound only to the codec that wrote them.

The engine's own ``revision`` also changes with the transformer and its number format, which voices
do not depend on; a voice must not be lost because the server runs in another precision.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from backend.core.types import EngineInfo

CODEC_STEM = "codec"
REVISION_DIGITS = 16

_SLICE_BYTES = 1 << 18
_NUM_SLICES = 32


def codec_revision(model_dir: Path, info: EngineInfo) -> str:
    """Name the codec of a loaded model. Reads at most 8 MiB of each of its files.

    Args:
        model_dir: Its files ``codec.*`` are the codec: weights and configuration. Of two weight
            files (``.safetensors``, ``.pth``) the first is the one in use. Without any such file
            the engine's revision stands in for them.
        info: The loaded model.

    Returns:
        16 hexadecimal digits that change when the codec does.
    """
    digest = hashlib.sha256()
    digest.update(f"{info.sample_rate} {info.frame_length} {info.codebook_sizes}\n".encode())
    paths = _codec_files(model_dir)
    for path in paths:
        digest.update(f"{path.suffix} {path.stat().st_size}\n".encode())
        for part in _slices(path):
            digest.update(part)
    if not paths:
        digest.update(info.revision.encode())
    return digest.hexdigest()[:REVISION_DIGITS]


def _codec_files(model_dir: Path) -> list[Path]:
    found = sorted(path for path in model_dir.glob(f"{CODEC_STEM}.*") if path.is_file())
    if any(path.suffix == ".safetensors" for path in found):
        return [path for path in found if path.suffix != ".pth"]
    return found


def _slices(path: Path) -> list[bytes]:
    """Give the whole of a small file; of a large one both ends and slices in between."""
    size = path.stat().st_size
    if size <= _SLICE_BYTES * _NUM_SLICES:
        return [path.read_bytes()]
    parts: list[bytes] = []
    with path.open("rb") as stream:
        for idx in range(_NUM_SLICES):
            stream.seek((size - _SLICE_BYTES) * idx // (_NUM_SLICES - 1))
            parts.append(stream.read(_SLICE_BYTES))
    return parts
