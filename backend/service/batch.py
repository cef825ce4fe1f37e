"""Many requests for speech into one ZIP, which grows while they are spoken."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.core.errors import TTSError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from backend.service.requests import Speech, SpeechRequest
    from backend.service.synthesis import SynthesisService

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Ask:
    """One item of a batch.

    Attributes:
        name: Stands in the file's name.
        make: Gives the request, or raises ``TTSError``.
    """

    name: str
    make: Callable[[], SpeechRequest]


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """What became of an item.

    Attributes:
        idx: Its place in the batch, from 0.
        name: As asked.
        file: In the ZIP, or None when there is none.
        seed: That was used.
        voice: That spoke.
        audio_s: Length.
        error: Why there is no file.
    """

    idx: int
    name: str
    file: str | None = None
    seed: int | None = None
    voice: str | None = None
    audio_s: float | None = None
    error: TTSError | None = None


async def zipped_speech(
    service: SynthesisService,
    asks: Sequence[Ask],
    describe: Callable[[BatchEntry], dict[str, Any]],
    at_a_time: int,
) -> AsyncGenerator[bytes, None]:
    """Yield a ZIP: one file for each item that could be spoken, in order, then the manifest.

    Closing the generator ends the work. At most ``at_a_time`` finished files are in memory.

    Args:
        service: Speaks.
        asks: What to speak.
        describe: Writes an entry of the manifest.
        at_a_time: Items that are spoken side by side.
    """
    sink = _Sink()
    described: list[dict[str, Any]] = []
    num_failed = 0
    waiting = deque(enumerate(asks))
    running: deque[asyncio.Task[tuple[BatchEntry, bytes]]] = deque()
    try:
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # sound is dense already
            while waiting or running:
                while waiting and len(running) < at_a_time:
                    running.append(asyncio.create_task(_speak(service, *waiting.popleft())))
                entry, content = await running[0]
                running.popleft()
                described.append(describe(entry))
                num_failed += entry.error is not None
                if entry.file is not None:
                    archive.writestr(entry.file, content)
                    yield sink.take()
            manifest = {"num_items": len(asks), "num_failed": num_failed, "items": described}
            archive.writestr(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2))
        yield sink.take()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _speak(service: SynthesisService, idx: int, ask: Ask) -> tuple[BatchEntry, bytes]:
    try:
        speech = await service.speak(ask.make())
        content = await _content(speech)
    except TTSError as error:
        return BatchEntry(idx, ask.name, error=error), b""
    entry = BatchEntry(
        idx,
        ask.name,
        file=f"{idx:03d}-{ask.name}.{speech.extension}",
        seed=speech.ledger.seed,
        voice=speech.ledger.voice,
        audio_s=speech.ledger.audio_s,
    )
    return entry, content


async def _content(speech: Speech) -> bytes:
    try:
        return b"".join([piece async for piece in speech.chunks()])
    finally:
        await speech.aclose()


class _Sink:
    """A file that can only be written to; what was written is taken away again."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken
