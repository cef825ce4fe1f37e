"""Listeners in several processes: one process alone would be the narrowest place."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from scripts.load.asks import NAMED, Ask, Asks
from scripts.load.figures import level_figures
from scripts.load.listener import Budget, Habits, Outcome, ask_once, run_level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a crowd does.

    Attributes:
        url: Of the server.
        num_processes: Processes that share the listeners.
        num_streams: Listeners at a time, of all processes together.
        num_requests: Requests of all together.
        voices: Names to choose from.
        habits: Of every listener.
        ramp_s: Within which the listeners of a process come.
        seed: Of what they ask for.
    """

    url: str
    num_processes: int
    num_streams: int
    num_requests: int
    voices: tuple[str, ...]
    habits: Habits
    ramp_s: float = 2.0
    seed: int = 1


def run_crowd(crowd: Crowd) -> dict[str, Any]:
    """Let a crowd ask, and give the figures of all its listeners together."""
    with gathered(crowd) as listen:
        return level_figures(crowd.num_streams, *listen())


@contextmanager
def gathered(crowd: Crowd) -> Iterator[Callable[[], tuple[list[Outcome], float]]]:
    """Start a crowd's processes and let each ask once, so that none begins later by its imports.

    Yields:
        What lets all of them listen; it gives every outcome and the seconds of the slowest process.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(crowd.num_processes, mp_context=context) as pool:
        list(pool.map(_warm_up, *zip(*_indexed(crowd), strict=True)))

        def listen() -> tuple[list[Outcome], float]:
            parts = list(pool.map(_listen, *zip(*_indexed(crowd), strict=True)))
            outcomes = [outcome for part, _ in parts for outcome in part]
            return outcomes, max(wall_s for _, wall_s in parts)

        yield listen


def _indexed(crowd: Crowd) -> Sequence[tuple[Crowd, int]]:
    return [(crowd, idx) for idx in range(crowd.num_processes)]


def _warm_up(crowd: Crowd, idx: int) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=crowd.url, trust_env=False, timeout=300) as client:
            ask = Ask(NAMED, f"Ready, number {idx}?", crowd.seed + idx)
            await ask_once(client, ask, crowd.habits)

    asyncio.run(run())


def _listen(crowd: Crowd, idx: int) -> tuple[list[Outcome], float]:
    share = crowd.num_processes
    asks = Asks(crowd.voices, seed=crowd.seed + idx)
    budget = Budget(seconds=None, requests=_part(crowd.num_requests, share, idx))
    num_streams = _part(crowd.num_streams, share, idx)
    return asyncio.run(run_level(crowd.url, num_streams, asks, budget, crowd.habits, crowd.ramp_s))


def _part(total: int, share: int, idx: int) -> int:
    """Give the size of part ``idx`` of ``share`` parts that add up to ``total``."""
    return total // share + (idx < total % share)
