"""Files named by what is in them: written once, never changed, the same content kept once.

A file appears under its name only when all of it is on the disk: it is written beside, flushed and
then renamed. So a name that exists is whole, whenever the power went away; ``read`` compares the
hash all the same, because disks rot.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from typing import TYPE_CHECKING

from backend.core.errors import VoiceStorageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_UNFINISHED = ".tmp"


class BlobStore:
    """Keep immutable files under the SHA-256 of their content.

    Nothing here is locked: whoever collects garbage must hold writers off (``VoiceStore`` does).

    Args:
        directory: Made when the first file is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, content: bytes) -> str:
        """Keep ``content`` and give its name: 64 hexadecimal digits.

        Raises:
            VoiceStorageError: The disk is full or cannot be written.
        """
        name = hashlib.sha256(content).hexdigest()
        path = self._path(name)
        if self.read(name) is not None:
            return name
        unfinished = path.with_name(f"{name}.{secrets.token_hex(4)}{_UNFINISHED}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
            for directory in (path.parent, self._directory):
                sync_directory(directory)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise VoiceStorageError(
                f"the voice cannot be stored ({error.strerror}); see to space and rights of "
                "DATA_DIR"
            ) from error
        return name

    def read(self, name: str) -> bytes | None:
        """Give the content under ``name``; None when it is not there or damaged."""
        try:
            content = self._path(name).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == name else None

    def collect(self, in_use: Collection[str]) -> int:
        """Delete every file that is not ``in_use``, unfinished ones included; give their number.

        A file that cannot be deleted (Windows, while it is being read) is left for the next time.
        """
        count = 0
        for path in self._directory.glob("??/*"):
            if path.name not in in_use:
                count += _delete(path)
        return count

    def delete(self, name: str) -> None:
        """Delete one file if it is there and can be deleted."""
        _delete(self._path(name))

    def _path(self, name: str) -> Path:
        return self._directory / name[:2] / name


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable; Windows does so by itself and offers no call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
