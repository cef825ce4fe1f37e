"""How results cross from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.core.types import AudioChunk, SynthesisSummary


class Mailbox:
    """One request's results on their way to its coroutine.

    Fulfills ``serving.sequence.Listener``: filled on the engine's thread, read on the loop's. It
    never grows beyond the sequence's credit, because the scheduler pauses at zero.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: asyncio.Queue[AudioChunk | SynthesisSummary | Exception] = asyncio.Queue()

    def audio(self, chunk: AudioChunk) -> None:
        """Put samples in."""
        self._put(chunk)

    def finished(self, summary: SynthesisSummary) -> None:
        """Put the end in."""
        self._put(summary)

    def failed(self, error: Exception) -> None:
        """Put a failure in."""
        self._put(error)

    async def take(self) -> AudioChunk | SynthesisSummary:
        """Wait for the next result.

        Raises:
            Exception: What ``failed`` was given.
        """
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _put(self, item: AudioChunk | SynthesisSummary | Exception) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
