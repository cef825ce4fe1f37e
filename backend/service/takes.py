"""Takes of one stretch of speech: watched, made again or cut when they go wrong."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from backend.core.types import AudioChunk, FinishReason
from backend.service.speech_guard import Finding, SpeechGuard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from backend.core.types import EngineInfo
    from backend.service.ledger import SpeechLedger

    MakeTake: TypeAlias = Callable[[int], AsyncGenerator[AudioChunk, None]]

logger = logging.getLogger(__name__)

RETRIED, CUT = "retried", "cut"
"""What was done about a take that went wrong."""


class GuardedTakes:
    """Give good speech, or as much of it as there was. Confined to the event loop.

    Args:
        count: Told of every take that went wrong: what was wrong, and ``RETRIED`` or ``CUT``.
    """

    def __init__(self, count: Callable[[str, str], None]) -> None:
        self._count = count

    async def streamed(
        self, make_take: MakeTake, text: str, info: EngineInfo, ledger: SpeechLedger
    ) -> AsyncGenerator[AudioChunk, None]:
        """Yield a take while it is made; where it goes wrong it ends.

        Args:
            make_take: Called with 0; gives the chunks of a take and ends its work when closed.
            text: What is to be said.
            info: Of the engine.
            ledger: Gets the finish reason.
        """
        guard, sent = SpeechGuard(text, info), 0
        async with aclosing(make_take(0)) as chunks:
            async for chunk in chunks:
                finding = guard.watch(chunk)
                if finding is None:
                    sent += chunk.codes.shape[1]
                    yield chunk
                    continue
                self._note(finding, CUT, ledger)
                # one frame at least, so that the sound can fade out instead of breaking off
                yield faded(chunk, max(1, finding.good_frames - sent))
                return
        finding = guard.finish()
        if finding is not None:
            self._note(finding, CUT, ledger)

    async def whole(
        self, make_take: MakeTake, text: str, info: EngineInfo, ledger: SpeechLedger
    ) -> AsyncGenerator[AudioChunk, None]:
        """Yield a take once it is known to be good; a second one is made when the first is not.

        Args:
            make_take: Called with the number of the take, which decides its seed.
            text: What is to be said.
            info: Of the engine.
            ledger: Gets the finish reason.
        """
        chunks, finding = await _watched(make_take(0), SpeechGuard(text, info))
        if finding is not None:
            self._note(finding, RETRIED, ledger)
            chunks, finding = await _watched(make_take(1), SpeechGuard(text, info))
        if finding is not None:
            self._note(finding, CUT, ledger)
            chunks = _kept(chunks, finding.good_frames)
        for chunk in chunks:
            yield chunk

    def _note(self, finding: Finding, action: str, ledger: SpeechLedger) -> None:
        self._count(finding.trouble.value, action)
        ledger.note_trouble(finding.trouble.value)
        if action == CUT:
            ledger.finish_reason = FinishReason.CUT
        logger.warning(
            "speech went wrong: %s after %d good frames; %s",
            finding.trouble.value,
            finding.good_frames,
            action,
        )


async def _watched(
    take: AsyncGenerator[AudioChunk, None], guard: SpeechGuard
) -> tuple[list[AudioChunk], Finding | None]:
    """Take a whole take; one that goes wrong only until then."""
    chunks: list[AudioChunk] = []
    async with aclosing(take):
        async for chunk in take:
            chunks.append(chunk)
            finding = guard.watch(chunk)
            if finding is not None:
                return chunks, finding
    return chunks, guard.finish()


def _kept(chunks: list[AudioChunk], num_frames: int) -> list[AudioChunk]:
    """Give the first frames, one at least, the last of them fading out."""
    left, kept = max(1, num_frames), list[AudioChunk]()
    for chunk in chunks:
        if chunk.codes.shape[1] >= left:
            return [*kept, faded(chunk, left)]
        kept.append(chunk)
        left -= chunk.codes.shape[1]
    return kept


def faded(chunk: AudioChunk, num_frames: int) -> AudioChunk:
    """Give the first ``num_frames`` frames of a chunk; the last of them fades out."""
    frame_length = chunk.samples.size // chunk.codes.shape[1]
    samples = chunk.samples[: num_frames * frame_length].copy()
    samples[-frame_length:] *= np.linspace(1.0, 0.0, frame_length, dtype=np.float32)
    return AudioChunk(samples, chunk.codes[:, :num_frames])
