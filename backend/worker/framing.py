"""Messages over a pair of pipes: a length, then a pickle. Both ends are this program."""

from __future__ import annotations

import pickle
import queue
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_BYTES = 1 << 20
"""A message is ended when it has so many: what is urgent waits for one message at most."""
_LENGTH = struct.Struct("<Q")


def write_message(stream: BinaryIO, message: object) -> None:
    """Write a message and flush.

    Raises:
        OSError: The other end is gone.
    """
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(payload)))
    stream.write(payload)
    stream.flush()


def read_message(stream: BinaryIO) -> Any:
    """Wait for the next message.

    Raises:
        EOFError: The other end is gone.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    return pickle.loads(_read(stream, length))  # noqa: S301 - written by the other half of this program


def _read(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)  # a buffered stream gives all of it, or less at the end
    if len(content) < length:
        raise EOFError("the other end of the pipe is gone")
    return content


class Outbox:
    """Write items in order on a thread of its own, so that nobody waits for the other end.

    Items that wait together go as one message, a tuple, up to a size. Life: made -> ``put`` any
    number of times -> ``open`` -> more -> ``close``. Once the other end is gone items vanish;
    whoever reads from it notices.

    Args:
        name: Of the thread.
        size_of: Bytes of an item, where they count.
    """

    def __init__(self, name: str, size_of: Callable[[Any], int] = lambda _: 0) -> None:
        self._size_of = size_of
        self._items: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._urgent: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stream: BinaryIO | None = None
        self._is_broken = False

    def open(self, stream: BinaryIO) -> None:
        """Begin to write to ``stream``, what was put in earlier first."""
        self._stream = stream
        self._thread.start()

    def put(self, item: object) -> None:
        """Queue an item; never blocks."""
        self._items.put(item)

    def put_first(self, item: object, wait_s: float) -> None:
        """Queue an item before all that wait, and wait for a while until it is written."""
        marker = _Marker()
        self._urgent.put(item)
        self._urgent.put(marker)
        self._items.put(_WAKE)
        marker.is_passed.wait(wait_s)

    def flush(self) -> None:
        """Wait until everything so far is written, or the other end is gone."""
        marker = _Marker()
        self._items.put(marker)
        marker.is_passed.wait()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: deque[object] = deque()
        is_closing = False
        while not is_closing:
            waiting.extend(_all_of(self._items, wait=not waiting))
            self._write(_all_of(self._urgent))
            batch = self._next_batch(waiting)
            self._write(batch)
            is_closing = any(item is None for item in batch)

    def _next_batch(self, waiting: deque[object]) -> list[object]:
        """Take what goes as one message."""
        batch: list[object] = []
        size = 0
        while waiting and size < MOST_BYTES:
            batch.append(waiting.popleft())
            if not _is_sign(batch[-1]):
                size += self._size_of(batch[-1])
        return batch

    def _write(self, batch: Sequence[object]) -> None:
        assert self._stream is not None
        items = tuple(item for item in batch if not _is_sign(item))
        if items and not self._is_broken:
            try:
                write_message(self._stream, items)
            except OSError:
                self._is_broken = True
        for item in batch:
            if isinstance(item, _Marker):
                item.is_passed.set()


class _Marker:
    """Tells when the items before it are written."""

    def __init__(self) -> None:
        self.is_passed = threading.Event()


_WAKE = _Marker()
"""Wakes the thread; nobody waits for it."""


def _is_sign(item: object) -> bool:
    """Tell whether an item is for the outbox itself: a marker, or the end."""
    return item is None or isinstance(item, _Marker)


def _all_of(items: queue.SimpleQueue[object], *, wait: bool = False) -> list[object]:
    """Take all that there is; with ``wait`` at least one."""
    taken = [items.get()] if wait else []
    while True:
        try:
            taken.append(items.get_nowait())
        except queue.Empty:
            return taken
