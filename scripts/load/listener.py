"""Listeners: ask, play back in real time, ask again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from scripts.load.playback import Playback

if TYPE_CHECKING:
    from scripts.load.asks import Ask, Asks

LONGEST_RETRY_S = 5.0
"""Longest that a listener waits after a refusal, whatever ``Retry-After`` says."""
AFTER_ERROR_S = 0.5


@dataclass(frozen=True, slots=True)
class Habits:
    """How every listener behaves.

    Attributes:
        force_frames: Frames of every answer, or None for as many as the text takes.
        prebuffer_s: Sound that is gathered before it is played.
        in_real_time: Hear an answer to its end before asking again; else ask at once.
        is_streaming: Take the sound while it is made; else wait for whole files.
        timeout_s: Longest silence of the server.
    """

    force_frames: int | None = None
    prebuffer_s: float = 0.0
    in_real_time: bool = True
    is_streaming: bool = True
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request went.

    Attributes:
        kind: Of the ask.
        playback: What was heard.
        ttfa_s: From sending to the first audio byte, or None.
        error: ``status 429`` or the like, or the class of an exception; None when all came.
        retry_after_s: What a refusal said.
    """

    kind: str
    playback: Playback
    ttfa_s: float | None = None
    error: str | None = None
    retry_after_s: float = AFTER_ERROR_S


class Budget:
    """When a level has been asked enough: after a time, or after a number of requests."""

    def __init__(self, *, seconds: float | None, requests: int | None) -> None:
        self._ends_at = None if seconds is None else time.perf_counter() + seconds
        self._left = requests

    def take(self) -> bool:
        """Take leave for one more request; False when there is none."""
        if self._ends_at is not None and time.perf_counter() >= self._ends_at:
            return False
        if self._left is not None:
            if self._left == 0:
                return False
            self._left -= 1
        return True


async def ask_once(client: httpx.AsyncClient, ask: Ask, habits: Habits) -> Outcome:
    """Send one request and take the answer as it comes."""
    form = {"text": ask.text, "seed": str(ask.seed), "format": "pcm"}
    form["stream"] = "true" if habits.is_streaming else "false"
    if ask.voice is not None:
        form["voice"] = ask.voice
    if habits.force_frames is not None:
        form["min_new_tokens"] = form["max_new_tokens"] = str(habits.force_frames)
    files = {"speaker_file": ("voice.wav", ask.recording)} if ask.recording is not None else None
    playback = Playback(1, habits.prebuffer_s)
    sent_at = time.perf_counter()
    try:
        async with client.stream("POST", "/tts", data=form, files=files) as answer:
            if answer.status_code != httpx.codes.OK:
                return Outcome(
                    ask.kind,
                    playback,
                    error=f"status {answer.status_code}",
                    retry_after_s=float(answer.headers.get("retry-after", AFTER_ERROR_S)),
                )
            playback.rate_hz = int(answer.headers["x-sample-rate"])
            async for piece in answer.aiter_raw():
                playback.feed(time.perf_counter(), len(piece))
    except httpx.HTTPError as error:
        return Outcome(ask.kind, playback, _ttfa_s(playback, sent_at), type(error).__name__)
    playback.finish(time.perf_counter())
    error = None if playback.audio_s else "no sound"
    return Outcome(ask.kind, playback, _ttfa_s(playback, sent_at), error)


async def run_level(
    url: str, num_streams: int, asks: Asks, budget: Budget, habits: Habits, ramp_s: float
) -> tuple[list[Outcome], float]:
    """Let ``num_streams`` listeners ask until the budget is spent; those who hear hear to the end.

    Args:
        url: Of the server.
        num_streams: Listeners at a time.
        asks: Shared by all.
        budget: Shared by all.
        habits: Of all.
        ramp_s: The listeners come one by one within this time; 0 lets all come at once.

    Returns:
        Every outcome, and the seconds from the first request to the last byte.
    """
    outcomes: list[Outcome] = []
    limits = httpx.Limits(max_connections=num_streams, max_keepalive_connections=num_streams)
    last_byte_at = started_at = time.perf_counter()

    async def listen(delay_s: float) -> None:
        nonlocal last_byte_at
        await asyncio.sleep(delay_s)
        while budget.take():
            outcome = await ask_once(client, asks.next(), habits)
            outcomes.append(outcome)
            last_byte_at = time.perf_counter()
            if outcome.error is not None:
                await asyncio.sleep(min(outcome.retry_after_s, LONGEST_RETRY_S))
            elif habits.in_real_time:
                await asyncio.sleep(max(0.0, outcome.playback.dry_at - last_byte_at))

    async with httpx.AsyncClient(
        base_url=url, trust_env=False, limits=limits, timeout=habits.timeout_s
    ) as client:
        delays_s = (ramp_s * idx / num_streams for idx in range(num_streams))
        await asyncio.gather(*(listen(delay_s) for delay_s in delays_s))
    return outcomes, last_byte_at - started_at


def _ttfa_s(playback: Playback, sent_at: float) -> float | None:
    return None if playback.first_at is None else playback.first_at - sent_at
