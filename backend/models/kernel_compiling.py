"""Compiling and loading many Triton kernels at a time.

Triton compiles a kernel when it is first started, builds a launcher for it with a C compiler and
loads both: a second or more for each, one after another. Here a chain of kernels is gone through
once without starting any, and every different one is asked for once; they are compiled (in
``loading`` loaded, too) on as many threads as there are cores. The compilers work outside of
Python's lock.
"""

# Triton is not there beside a CPU torch, and has no types.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from queue import PriorityQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    _Work: TypeAlias = tuple[Future[Any], Callable[[], Any]]

_ALIGNED = 16
"""Bytes, and a divisor of numbers, that Triton makes kernels of their own for."""
_SECONDS = {
    "unit_kernel": 5.0,
    "slow_attention": 3.0,
    "attend_kernel": 2.0,
    "draw_codes": 2.0,
    "fast_attention": 2.0,
}
"""What kernels take to compile, if it is much more than one second: they must not begin last."""

_waking = Lock()


def wake() -> None:
    """Import Triton and have its driver built, which takes a C compiler and a second or two.

    Whoever comes meanwhile waits instead of building another one.
    """
    with _waking:
        from triton.runtime import driver

        _ = driver.active


_is_loading: ContextVar[bool] = ContextVar("is_loading", default=False)


@contextmanager
def loading() -> Iterator[None]:
    """Let kernels that are compiled in here be loaded, too."""
    token = _is_loading.set(True)
    try:
        yield
    finally:
        _is_loading.reset(token)


class Requests:
    """Asks for each kernel once: telling the same kernel again costs Triton a millisecond.

    Args:
        making: What compiles them.
    """

    def __init__(self, making: _Making) -> None:
        self._making = making
        self._asked: set[tuple[object, ...]] = set()

    def ask(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """Ask for what ``kernel[grid](*args, **options)`` would start."""
        request = (kernel, *_traits(kernel, args, options))
        if request not in self._asked:
            self._asked.add(request)
            self._making.expected_s = _SECONDS.get(getattr(kernel, "__name__", ""), 1.0)
            kernel.warmup(*args, grid=grid, **options)


def _traits(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[object]:
    """What of a call decides about the kernel: finer than what Triton looks at is harmless."""
    for parameter, value in zip(kernel.params, args, strict=False):
        yield _trait(parameter, value)
    parameters = {parameter.name: parameter for parameter in kernel.params}
    for name, value in sorted(options.items()):
        yield name, _trait(parameters[name], value) if name in parameters else value


def _trait(parameter: Any, value: Any) -> object:
    if parameter.is_constexpr or value is None or isinstance(value, bool):
        return value
    if isinstance(value, torch.Tensor):
        is_seen = not parameter.do_not_specialize_on_alignment
        return value.dtype, is_seen and value.data_ptr() % _ALIGNED == 0
    if isinstance(value, int):
        is_wide = not -(2**31) <= value < 2**31
        if parameter.do_not_specialize:
            return is_wide
        return is_wide, value == 1, value % _ALIGNED == 0
    return type(value)


@contextmanager
def compiling(*, ignores_errors: bool = False) -> Iterator[Requests | None]:
    """Compile all that is asked for inside; done when it is left.

    Args:
        ignores_errors: Whether a kernel that cannot be made is left for its first start to tell.

    Yields:
        Takes the requests. None with a Triton that cannot compile ahead.
    """
    import triton

    mode: Any = getattr(triton, "AsyncCompileMode", None)
    if mode is None:
        yield None
        return
    wake()
    with _threads.shared() as threads:
        making = _Making(threads, loads=_is_loading.get())
        with mode(making, ignore_errors=True):
            yield Requests(making)
    errors = (future.exception() for future in making.futures)
    error = next((error for error in errors if error is not None), None)
    if error is not None and not ignores_errors:
        raise error


class _Making(Executor):
    """What Triton hands its compilations to.

    Attributes:
        expected_s: Seconds that the next one will take.
    """

    def __init__(self, threads: _Threads, *, loads: bool) -> None:
        self._threads, self._loads = threads, loads
        self.expected_s = 1.0
        self._building: defaultdict[str, Lock] = defaultdict(Lock)
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As ``Executor``."""
        future: Future[Any] = Future()
        self._threads.add(self.expected_s, future, lambda: self._made(fn))
        self.futures.append(future)
        return future

    def _made(self, compile_one: Callable[[], Any]) -> Any:
        kernel = compile_one()
        if not self._loads:
            return kernel
        with self._building[kernel.name]:  # most kernels of a name share one launcher
            _ = kernel.run  # builds the launcher and loads the kernel
        return kernel


class _Threads:
    """One for each core; what takes longest goes first."""

    def __init__(self) -> None:
        self._waiting: PriorityQueue[tuple[float, int, _Work | None]] = PriorityQueue()
        self._numbers = count()  # works never compare
        self._threads = [
            Thread(target=self._run, args=(_device(),), name="compile", daemon=True)
            for _ in range(os.cpu_count() or 1)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, expected_s: float, future: Future[Any], work: Callable[[], Any]) -> None:
        """Do ``work`` when its turn comes; ``future`` tells what came of it."""
        self._waiting.put((-expected_s, next(self._numbers), (future, work)))

    def end(self) -> None:
        """Do what waits and stop."""
        for _ in self._threads:
            self._waiting.put((0.0, next(self._numbers), None))
        for thread in self._threads:
            thread.join()

    def _run(self, device: int | None) -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while (item := self._waiting.get()[2]) is not None:
            future, work = item
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                future.set_exception(error)


def _device() -> int | None:
    """The card of this thread; others begin with the first one."""
    return torch.cuda.current_device() if torch.cuda.is_available() else None


class _SharedThreads:
    """Those of all that compile at the same time; none when nobody does."""

    def __init__(self) -> None:
        self._lock, self._num_users = Lock(), 0
        self._threads: _Threads | None = None

    @contextmanager
    def shared(self) -> Iterator[_Threads]:
        """Give them."""
        with self._lock:
            self._num_users += 1
            threads = self._threads = self._threads or _Threads()
        try:
            yield threads
        finally:
            with self._lock:
                self._num_users -= 1
                unused = None if self._num_users else self._threads
                self._threads = None if unused else self._threads
            if unused is not None:
                unused.end()


_threads = _SharedThreads()
