"""Kernels that can be compiled ahead, many at a time.

Triton compiles a kernel when it is first started, one after another, a good part of a second each.
A chain of kernels can be gone through once without starting any: then all that it needs is compiled
on as many threads as there are cores.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import triton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_is_compiling: ContextVar[bool] = ContextVar("is_compiling", default=False)
_MOST_THREADS = 16


def is_compiling() -> bool:
    """Whether a chain is gone through to compile what it would start."""
    return _is_compiling.get()


class Kernel:
    """A Triton kernel: ``kernel[grid](...)`` starts it, or only compiles it in ``compile_ahead``.

    Args:
        function: What ``triton.jit`` made.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        if _is_compiling.get():
            return partial(self._function.warmup, grid=grid)
        return self._function[grid]


def compile_ahead(chains: Iterable[Callable[[], object]]) -> None:
    """Compile what ``chains`` would start; nothing runs on the card.

    What cannot be compiled shows when it is started. A Triton without this mode does nothing here.

    Args:
        chains: They start ``Kernel``s and do nothing else.
    """
    mode: Any = getattr(triton, "AsyncCompileMode", None)
    if mode is None:
        return
    token = _is_compiling.set(True)
    try:
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool, mode(pool, ignore_errors=True):
            for chain in chains:
                chain()
    finally:
        _is_compiling.reset(token)
