"""Small objects in a place that fsspec reaches: a bucket, a share, a folder.

What the voices need of it: an object is there whole or not at all, a change is seen by whoever
asks afterwards, and one call lists a folder. Object stores promise all three; a folder does when
files are renamed into place.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.core.errors import SettingsError, VoiceStorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

_UNFINISHED = ".tmp"
_MARKS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "created", "mtime", "ino")
"""What changes when an object does, by its name in one backend of fsspec or another."""


class ObjectPlace:
    """One folder of objects. Any thread may call.

    Args:
        url: As fsspec has it, e.g. ``s3://bucket/folder``. Keys and endpoints come from where the
            backend's own package looks for them (environment, its configuration files).

    Raises:
        SettingsError: There is no such backend, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            fsspec: Any = import_module("fsspec")  # only who keeps voices elsewhere needs it
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"VOICES_URL={url}: {error}") from error
        self._root = str(root).rstrip("/")
        self._is_folder = "file" in self._fs.protocol

    def read(self, name: str) -> bytes | None:
        """Give an object's content; None when it is not there."""
        with self._told():
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Give the content of those that are there; backends that can fetch them side by side."""
        by_path = {self._path(name): name for name in names}
        if not by_path:
            return {}
        with self._told():
            found: dict[str, Any] = self._fs.cat(list(by_path), on_error="return")
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {
            by_path[path]: bytes(content)
            for path, content in found.items()
            if not isinstance(content, Exception)
        }

    def write(self, name: str, content: bytes) -> None:
        """Put an object, whole, in the place of what was there."""
        path = self._path(name)
        with self._told():
            if self._is_folder:
                _unfinished(path, content).replace(path)
            else:
                self._fs.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless there is one; tell whether there was none.

        A folder and backends that can put under a condition do both in one step; others look first.
        """
        path = self._path(name)
        with self._told():
            try:
                if self._is_folder:
                    unfinished = _unfinished(path, content)
                    try:
                        os.link(unfinished, path)
                    finally:
                        unfinished.unlink()
                else:
                    self._fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object if it is there."""
        with self._told():
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def exists(self, name: str) -> bool:
        """Tell whether an object is there."""
        with self._told():
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(name)))

    def marks(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Give, for every object of a folder, what changes when the object does."""
        with self._told():
            self._fs.invalidate_cache()  # others write as well
            try:
                listed: list[dict[str, Any]] = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {
            f"{folder}/{posixpath.basename(item['name'])}": tuple(
                str(item.get(key, "")) for key in _MARKS
            )
            for item in listed
            if item["type"] == "file" and not item["name"].endswith(_UNFINISHED)
        }

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except Exception as error:  # every backend has exceptions of its own
            raise VoiceStorageError(
                f"the voices in {self._url} cannot be reached "
                f"({type(error).__name__}: {error}); see to VOICES_URL, its keys and the network"
            ) from error


def _unfinished(path: str, content: bytes) -> Path:
    """Write a file beside the place where it belongs, all of it on the disk."""
    unfinished = Path(f"{path}.{secrets.token_hex(4)}{_UNFINISHED}")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return unfinished
