"""Replay a training step as one CUDA graph: small kernels cost nothing to launch then."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[..., Tensor]


class CapturedStep:
    """A function of tensors of fixed shape, captured on its first call where there is a GPU.

    The function may train: the warm-up calls before the capture count as steps. It must not read
    a tensor's value on the host. Without a GPU, or with ``is_enabled`` false, it runs plainly.
    """

    def __init__(self, function: Step, *, is_enabled: bool, warm_up: int = 4) -> None:
        self._function, self._warm_up = function, warm_up
        self._is_enabled = is_enabled
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output = torch.zeros(())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run one step; the result is overwritten by the next call."""
        if not (self._is_enabled and inputs[0].is_cuda):
            return self._function(*inputs)
        if self._graph is None:
            self._capture(*inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._output

    def _capture(self, *inputs: Tensor) -> None:
        self._inputs = tuple(given.clone() for given in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self._warm_up):
                self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._function(*self._inputs)
