"""Speech on its way to the browser, and the files that are left at the end.

The browser's player pulls: it asks for everything after the byte it has, and is answered as soon as
there is something. So nothing is lost however slow the network is, and nothing is sent twice.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict

from ui.wav import BYTES_PER_SAMPLE

MAX_BYTES_PER_PULL = 1 << 20


class LiveTake:
    """The samples of one take while it is made; for one writer and any number of readers.

    Attributes:
        take_id: Names it in the browser.
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self.take_id = uuid.uuid4().hex
        self.sample_rate = sample_rate
        self._samples = bytearray()
        self._is_finished = False
        self._changed = threading.Condition()

    @property
    def duration_s(self) -> float:
        """Seconds of speech so far."""
        return len(self._samples) / BYTES_PER_SAMPLE / self.sample_rate

    @property
    def is_finished(self) -> bool:
        """Whether nothing more comes."""
        return self._is_finished

    def append(self, pcm: bytes) -> None:
        """Add 16-bit samples; those that come after the end are left out."""
        with self._changed:
            if self._is_finished:
                return
            self._samples += pcm
            self._changed.notify_all()

    def finish(self) -> None:
        """Say that nothing more comes; may be said again."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def read(self, offset: int, timeout_s: float) -> tuple[bytes, bool]:
        """Wait for bytes after ``offset``.

        Returns:
            The bytes (empty when the time is over), and whether they are the last.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._samples) > offset or self._is_finished, timeout=timeout_s
            )
            end = min(offset + MAX_BYTES_PER_PULL, len(self._samples))
            return bytes(self._samples[offset:end]), self._is_finished and end == len(self._samples)

    @property
    def pcm(self) -> bytes:
        """All samples so far."""
        with self._changed:
            return bytes(self._samples)


class TakeShelf:
    """The latest takes by id. The oldest is dropped when there are too many."""

    def __init__(self, max_takes: int = 16) -> None:
        self._max_takes = max_takes
        self._takes: OrderedDict[str, LiveTake] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, take: LiveTake) -> None:
        """Keep a take; one that has to make room is finished."""
        with self._lock:
            self._takes[take.take_id] = take
            while len(self._takes) > self._max_takes:
                self._takes.popitem(last=False)[1].finish()

    def find(self, take_id: str) -> LiveTake | None:
        """Give the take, or None when it was dropped."""
        with self._lock:
            return self._takes.get(take_id)
