"""A step of the engine as a CUDA graph."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_log = logging.getLogger(__name__)

_RUNS_BEFORE_CAPTURE = 2
"""Kernels are compiled and libraries take their workspaces in the first runs."""


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


def captured(step: Callable[[], T], device: torch.device, pool: object) -> Callable[[], T]:
    """Run ``step`` a few times on a side stream, then capture it.

    Args:
        step: Reads nothing back; touches only what may be touched now (the scratch slot).
        device: A card.
        pool: Of ``torch.cuda.graph_pool_handle``; graphs that share it never run at the same time.

    Returns:
        The replay, or ``step`` itself where there is no memory for one; a warning tells so.
    """
    try:
        return _replay(step, device, pool)
    except torch.OutOfMemoryError:
        _log.warning(
            "no memory for a CUDA graph of the transformer: this size runs eagerly, which is "
            "slower; use fewer MAX_SLOTS, a smaller MAX_SEQ_LEN, or QUANTIZATION"
        )
        return step


def _replay(step: Callable[[], T], device: torch.device, pool: object) -> Replay[T]:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_RUNS_BEFORE_CAPTURE):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads may use the card meanwhile
    with torch.cuda.graph(
        graph,
        pool=pool,  # pyright: ignore[reportArgumentType]
        stream=stream,
        capture_error_mode="thread_local",
    ):
        result = step()
    return Replay(graph, result, step)
