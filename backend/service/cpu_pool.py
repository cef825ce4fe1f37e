"""CPU work (decoding, encoding, resampling, hashing) away from the event loop, in few threads."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

MAX_THREADS = 4
"""The libraries below release the interpreter lock, but more threads than this only delay the
engine's own."""


class CpuPool:
    """Run blocking functions for coroutines. ``close`` waits for what is running."""

    def __init__(self, max_threads: int | None = None) -> None:
        threads = max_threads or min(MAX_THREADS, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="cpu")

    async def run(
        self, function: Callable[_Params, _Result], *args: _Params.args, **kwargs: _Params.kwargs
    ) -> _Result:
        """Call ``function`` in a thread and wait for it.

        A caller that is cancelled still waits until its call has ended: the function uses the
        caller's objects, which the caller is about to close.
        """
        job = self._executor.submit(function, *args, **kwargs)
        waiting = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([waiting])
            raise

    def close(self) -> None:
        """Take no more work and wait for what is running."""
        self._executor.shutdown(wait=True, cancel_futures=True)
