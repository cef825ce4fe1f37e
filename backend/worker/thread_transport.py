"""The engine in a thread of the API process: for Ray, notebooks and tests."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from backend.worker.engine_loop import EngineLoop
from backend.worker.protocol import Ended, Stop

if TYPE_CHECKING:
    from backend.worker.protocol import Command, Deliver, EngineSource

STOP_TIMEOUT_S = 30.0
"""A step takes far less, a prefill on a slow CPU a few seconds."""


class ThreadTransport:
    """Fulfills ``Transport``. A thread cannot be ended from outside, nor begun anew.

    Args:
        source: Makes the engine.
        deliver: Gets the events, on the engine's thread.
    """

    can_restart = False
    pid: int | None = None

    def __init__(self, source: EngineSource, deliver: Deliver) -> None:
        self._deliver = deliver
        self._loop = EngineLoop(source, lambda event: deliver((event,)))
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    def send(self, command: Command) -> None:
        """Hand a command over."""
        self._loop.post(command)

    def kill(self) -> None:
        """Ask it to end: nothing else can be done to a thread."""
        self._loop.post(Stop())

    async def close(self) -> None:
        """Ask it to end and wait, for a while."""
        self._loop.post(Stop())
        await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._loop.run()
        finally:
            self._deliver((Ended("the engine's thread ended"),))
