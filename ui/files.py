"""Files that a page offers, each under an address that nobody can guess."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path


class FileShelf:
    """The latest files. The oldest is deleted when there are too many. For several threads.

    Args:
        folder: Where they are; Gradio has to be told that it may serve them.
        max_files: How many are kept for all visitors together.
    """

    def __init__(self, folder: Path, max_files: int = 200) -> None:
        self._folder = folder
        self._max_files = max_files
        self._files: deque[Path] = deque()
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes) -> Path:
        """Keep a file.

        Args:
            name: What it is called when it is downloaded; no folders.
            content: Its bytes.
        """
        place = self._folder / uuid.uuid4().hex
        place.mkdir(parents=True)
        file = place / name
        file.write_bytes(content)
        with self._lock:
            self._files.append(file)
            while len(self._files) > self._max_files:
                shutil.rmtree(self._files.popleft().parent)
        return file


def address_of(file: Path) -> str:
    """Give the address of a file on the Gradio page, relative to the page."""
    return "gradio_api/file=" + quote(file.as_posix())
