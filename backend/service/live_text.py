"""Text that is still being written: pieces go in as they come, whole sentences come out.

A writer (a language model, a person) feeds pieces of any size. The reader gets stretches that can
be spoken well: a sentence as soon as the next one begins, several when they piled up meanwhile,
and everything there is when the writer flushes or ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from backend.core.errors import InvalidTextError
from backend.service.emotions import without_unknown_markers
from backend.service.text import (
    SEGMENT_WEIGHT,
    finished_length,
    has_words,
    is_speakable,
    split_text,
    text_weight,
    tidy_text,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.service.ledger import SpeechLedger


class LiveText:
    """One text on its way. Confined to the event loop; one writer, one reader.

    Args:
        max_chars: Most characters that may be fed, all pieces together.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._num_chars = 0
        self._open = ""  # the sentence that is being written
        self._held = ""  # markers, which belong to the words that follow them
        self._ready: deque[str] = deque()
        self._is_ended = False
        self._changed = asyncio.Event()

    def feed(self, piece: str) -> None:
        """Take the next piece.

        Raises:
            InvalidTextError: The text is longer than the limit.
        """
        self._num_chars += len(piece)
        if self._num_chars > self._max_chars:
            raise InvalidTextError(
                f"the text has more than {self._max_chars} characters; begin a new connection for "
                "the rest, or raise MAX_TEXT_CHARS"
            )
        self._open += piece
        length = finished_length(self._open)
        if length:
            self._give(self._open[:length])
            self._open = self._open[length:]

    def flush(self) -> None:
        """Let everything that was fed be spoken, finished sentence or not."""
        self._give(self._open)
        self._open = ""

    def end(self) -> None:
        """Flush; nothing more will come."""
        self.flush()
        if self._held.strip():
            self._ready.append(self._held)
        self._is_ended = True
        self._changed.set()

    async def stretches(self) -> AsyncGenerator[str, None]:
        """Yield what can be spoken, as much of it at a time as one segment holds."""
        while True:
            while self._ready:
                yield self._take()
            if self._is_ended:
                return
            self._changed.clear()
            await self._changed.wait()

    def _give(self, text: str) -> None:
        self._held += text
        if has_words(self._held):
            self._ready.append(self._held)
            self._held = ""
            self._changed.set()

    def _take(self) -> str:
        """Take the first stretch, and those after it that fit into one segment with it."""
        taken = self._ready.popleft()
        while self._ready and text_weight(taken + self._ready[0]) <= SEGMENT_WEIGHT:
            taken += self._ready.popleft()
        return taken


async def live_segments(
    live: LiveText, model: str, ledger: SpeechLedger
) -> AsyncGenerator[str, None]:
    """Yield the segments of a text that is still being written, cleaned and cut.

    Stretches that hold nothing to speak are passed over. The ledger's clock starts with the first
    segment: waiting for the writer is no work.

    Raises:
        InvalidTextError: It ended without anything to speak.
    """
    async for stretch in live.stretches():
        cleaned = tidy_text(stretch)
        cleaned, _ = without_unknown_markers(cleaned, model)
        if not is_speakable(cleaned):
            continue
        if ledger.num_segments == 0:
            ledger.restart_clock()
        ledger.num_chars += len(cleaned)
        for segment in split_text(cleaned):
            ledger.num_segments += 1
            yield segment
    if ledger.num_segments == 0:
        raise InvalidTextError("the text ended without a word to speak; send at least one")
