"""Kernels that can be compiled ahead, many at a time; see ``models.kernel_compiling``."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.models.kernel_compiling import Requests, compiling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_requests: ContextVar[Requests | None] = ContextVar("requests", default=None)


def is_compiling() -> bool:
    """Whether a chain is gone through to compile what it would start."""
    return _requests.get() is not None


class Kernel:
    """A Triton kernel: ``kernel[grid](...)`` starts it, or only compiles it in ``compile_ahead``.

    Args:
        function: What ``triton.jit`` made.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        requests = _requests.get()
        if requests is not None:
            return partial(requests.ask, self._function, grid)
        return self._function[grid]


def compile_ahead(chains: Iterable[Callable[[], object]]) -> None:
    """Compile what ``chains`` would start; nothing runs on the card.

    What cannot be compiled shows when it is started. A Triton without this mode does nothing here.

    Args:
        chains: They start ``Kernel``s and do nothing else.
    """
    with compiling(ignores_errors=True) as requests:
        if requests is None:
            return
        token = _requests.set(requests)
        try:
            for chain in chains:
                chain()
        finally:
            _requests.reset(token)
