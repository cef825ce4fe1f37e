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
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from threading import Condition, Event, Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

_SHARE_OF_THREADS = 4
"""One of so many does what stands back: it shares Python's lock with whoever captures graphs."""

_waking, _reading = Lock(), Lock()


def wake() -> None:
    """Import Triton and have its driver built, which takes a C compiler and a second or two.

    Whoever comes meanwhile waits instead of building another one.
    """
    with _waking:
        from triton.runtime import driver

        _ = driver.active
    read_compiler()


def read_compiler() -> None:
    """Have Triton's hash of itself made, which it begins the name of every kernel with.

    It reads 0.4 GB in pieces and takes Python's lock for each. Chains that come first at the same
    time would each do so, and keep each other waiting for seconds.
    """
    with _reading:
        try:
            from triton.runtime.cache import triton_key
        except ImportError:  # it is elsewhere in other versions, and made with the first kernel
            return
        triton_key()


loads_or_captures = Lock()
"""Held while a kernel that stood back is loaded, and while a graph is captured: never both."""


@dataclass(frozen=True, slots=True)
class _Manner:
    """How kernels are made.

    Attributes:
        loads: Whether they are loaded, too.
        end: They stand back behind all others; once it is set, those not begun are given up.
    """

    loads: bool = False
    end: Event | None = None


_USUAL = _Manner()
_manner: ContextVar[_Manner] = ContextVar("manner", default=_USUAL)


@contextmanager
def loading(end: Event | None = None) -> Iterator[None]:
    """Let kernels that are compiled in here be loaded, too.

    Args:
        end: Makes them stand back: others go first, few threads take them, and graphs may be
            captured meanwhile. Once it is set, those not begun are given up.
    """
    token = _manner.set(_Manner(loads=True, end=end))
    try:
        yield
    finally:
        _manner.reset(token)


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
        making = _Making(threads, _manner.get())
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

    def __init__(self, threads: _Threads, manner: _Manner) -> None:
        self._threads, self._manner = threads, manner
        self.expected_s = 1.0
        self._building: defaultdict[str, Lock] = defaultdict(Lock)
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As ``Executor``."""
        future: Future[Any] = Future()
        stands_back = self._manner.end is not None
        self._threads.add(future, lambda: self._made(fn), self.expected_s, stands_back=stands_back)
        self.futures.append(future)
        return future

    def _made(self, compile_one: Callable[[], Any]) -> Any:
        if self._manner.end is not None and self._manner.end.is_set():
            raise RuntimeError("it was given up")
        kernel = compile_one()
        if self._manner.loads:
            self._load(kernel)
        return kernel

    def _load(self, kernel: Any) -> None:
        """Build the launcher, which is a C compiler's work, and load the kernel."""
        with self._building[kernel.name]:  # most kernels of a name share one launcher
            if self._manner.end is None:
                _ = kernel.run
                return
            from triton.runtime import driver

            driver.active.launcher_cls(kernel.src, kernel.metadata)  # is found again at once
            with loads_or_captures:
                _ = kernel.run


class _Work(NamedTuple):
    """What a thread does; the smallest goes first, and no two are equal.

    Attributes:
        stands_back: Whether all others go first.
        minus_s: Seconds that it will take, negative.
        number: Of its coming.
        future: Tells what came of it.
        do: Does it.
    """

    stands_back: bool
    minus_s: float
    number: int
    future: Future[Any]
    do: Callable[[], Any]


class _Threads:
    """One for each core; what takes longest goes first, and few do what stands back."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: list[_Work] = []
        self._numbers = count()
        self._num_standing_back, self._has_ended = 0, False
        num_threads = os.cpu_count() or 1
        self._most_standing_back = max(1, num_threads // _SHARE_OF_THREADS)
        self._threads = [
            Thread(target=self._run, args=(_device(),), name="compile", daemon=True)
            for _ in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Works that no thread has taken."""
        return len(self._waiting)

    def add(
        self, future: Future[Any], do: Callable[[], Any], expected_s: float, *, stands_back: bool
    ) -> None:
        """Do something when its turn comes; ``future`` tells what came of it."""
        with self._changed:
            number = next(self._numbers)
            heappush(self._waiting, _Work(stands_back, -expected_s, number, future, do))
            self._changed.notify_all()

    def end(self) -> None:
        """Do what waits and stop."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, device: int | None) -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while (work := self._take()) is not None:
            try:
                work.future.set_result(work.do())
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                work.future.set_exception(error)
            if work.stands_back:
                with self._changed:
                    self._num_standing_back -= 1
                    self._changed.notify_all()

    def _take(self) -> _Work | None:
        """Wait for work; None when there will be no more."""
        with self._changed:
            while not self._has_turn():
                if self._has_ended and not self._waiting:
                    return None
                self._changed.wait()
            work = heappop(self._waiting)
            self._num_standing_back += work.stands_back
            if self._has_ended and not self._waiting:
                self._changed.notify_all()
            return work

    def _has_turn(self) -> bool:
        """Whether a thread may take the first work that waits."""
        if not self._waiting:
            return False
        has_room = self._num_standing_back < self._most_standing_back
        return has_room or not self._waiting[0].stands_back


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
