"""Messages over a pair of pipes: a length, then a pickle. Both ends are this program."""

from __future__ import annotations

import pickle
import queue
import struct
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def _is_sign(item: object) -> bool:
    """Tell whether an item is for the outbox itself: a marker of ``flush`` or the end."""
    return item is None or isinstance(item, threading.Event)


class Outbox:
    """Write items in order on a thread of its own, so that nobody waits for the other end.

    Items that wait together go as one message: a tuple. Life: made -> ``put`` any number of times
    -> ``open`` -> more -> ``close``. Once the other end is gone items vanish; whoever reads from it
    notices.
    """

    def __init__(self, name: str) -> None:
        self._items: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stream: BinaryIO | None = None

    def open(self, stream: BinaryIO) -> None:
        """Begin to write to ``stream``, what was put in earlier first."""
        self._stream = stream
        self._thread.start()

    def put(self, item: object) -> None:
        """Queue an item; never blocks."""
        self._items.put(item)

    def flush(self) -> None:
        """Wait until everything so far is written, or the other end is gone."""
        marker = threading.Event()
        self._items.put(marker)
        marker.wait()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        assert self._stream is not None
        is_broken = is_closing = False
        while not is_closing:
            waiting = self._take_all()
            items = tuple(item for item in waiting if not _is_sign(item))
            if items and not is_broken:
                try:
                    write_message(self._stream, items)
                except OSError:
                    is_broken = True
            for item in waiting:
                if isinstance(item, threading.Event):
                    item.set()
            is_closing = any(item is None for item in waiting)

    def _take_all(self) -> Sequence[object]:
        waiting = [self._items.get()]
        while True:
            try:
                waiting.append(self._items.get_nowait())
            except queue.Empty:
                return waiting
