"""How one request's results reach the coroutine that asked for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.core.types import AudioChunk, SynthesisSummary


class Mailbox:
    """One request's results, in order. Confined to the event loop.

    It never grows beyond the sequence's credit, because the scheduler pauses at zero.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[AudioChunk | SynthesisSummary | Exception] = asyncio.Queue()

    def put(self, item: AudioChunk | SynthesisSummary | Exception) -> None:
        """Put samples, the end or a failure in."""
        self._items.put_nowait(item)

    async def take(self) -> AudioChunk | SynthesisSummary:
        """Wait for the next result.

        Raises:
            Exception: The failure that was put in.
        """
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item
