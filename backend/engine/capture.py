"""Steps of the engine as CUDA graphs, all of them in one room of the card's memory."""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from backend.models.kernel_compiling import loads_or_captures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_log = logging.getLogger(__name__)

RUNS_BEFORE_CAPTURE = 2
"""Kernels are compiled and libraries take their workspaces in the first runs."""
RUNS_OF_OWN_KERNELS = 1
"""Of steps that use no libraries and whose kernels are compiled: one run loads them."""


@dataclass(frozen=True, slots=True)
class Replay(Generic[T]):
    """A captured step, with all that the graph's addresses belong to.

    Attributes:
        graph: The graph.
        result: What the step gave while it was captured; each replay writes it anew.
        step: Keeps alive whatever tensors the step works on.
    """

    graph: torch.cuda.CUDAGraph
    result: T
    step: Callable[[], T]

    def __call__(self) -> T:
        """Run it."""
        self.graph.replay()
        return self.result


class GraphRoom:
    """The memory in which all graphs of an engine keep what they compute on the way.

    Graphs of one room never run at the same time, so what one of them needs is free for all others:
    the room is as large as the largest. Everything is captured on one stream, because the
    allocator and the matrix libraries keep memory for each stream apart. Graphs that may run at the
    same time need a room each. Kernels of a graph keep the priority of the stream they were
    captured on.

    Args:
        device: A card.
        priority: Of what is captured here; lower numbers go first.

    Attributes:
        device: The card.
        stream: On which everything is captured.
    """

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=priority)
        self._pool = torch.cuda.MemPool()
        self._anchor: torch.cuda.CUDAGraph | None = None
        """PyTorch 2.11 refuses a pool whose last graph has gone: this one stays."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run what is inside in this room, too. Nothing that it makes may be used afterwards."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with (
            _no_garbage_collection(),
            torch.cuda.stream(self.stream),
            torch.cuda.use_mem_pool(self._pool, self.device),
        ):
            yield
        current.wait_stream(self.stream)

    def capture(
        self, step: Callable[[], T], num_runs: int = RUNS_BEFORE_CAPTURE
    ) -> tuple[torch.cuda.CUDAGraph, T]:
        """Run ``step`` a few times, then capture it.

        Args:
            step: Reads nothing back; touches only what may be touched now (the scratch slot).
            num_runs: Runs before.

        Returns:
            The graph and what ``step`` gave, whose memory stays its own.

        Raises:
            torch.OutOfMemoryError: There is no room for what the step computes on the way.
        """
        with self.working():
            for _ in range(num_runs):
                step()
        if self._anchor is None:
            self._anchor, _ = self._captured(lambda: torch.zeros(1, device=self.device))
        return self._captured(step)

    def _captured(self, step: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        with loads_or_captures, _no_garbage_collection(), torch.cuda.stream(self.stream):
            # thread_local: other threads may use the card meanwhile
            graph.capture_begin(
                pool=self._pool.id,  # pyright: ignore[reportArgumentType]
                capture_error_mode="thread_local",
            )
            try:
                result = step()
            finally:
                graph.capture_end()
        return graph, result


def captured(
    step: Callable[[], T], room: GraphRoom, num_runs: int = RUNS_BEFORE_CAPTURE
) -> Callable[[], T]:
    """Capture ``step`` in ``room``, see ``GraphRoom.capture``.

    Returns:
        The replay, or ``step`` itself where there is no memory for one; a warning tells so.
    """
    try:
        graph, result = room.capture(step, num_runs)
    except torch.OutOfMemoryError:
        _log.warning(
            "no memory for a CUDA graph of the transformer: this size runs eagerly, which is "
            "slower; use fewer MAX_SLOTS, a smaller MAX_SEQ_LEN, or QUANTIZATION"
        )
        return step
    return Replay(graph, result, step)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph that is collected meanwhile would end the capture; another room, the process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
