"""Many kernels at a time, with a Triton that is not there: who is asked for, made, loaded, told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from backend.models import kernel_compiling
from backend.models.kernel_compiling import (
    Requests,
    _Making,
    compiling,
    loading,
    loads_or_captures,
    wake,
)


def parameter(name: str, *, constexpr: bool = False, plain: bool = False, moved: bool = False):
    return SimpleNamespace(
        name=name, is_constexpr=constexpr, do_not_specialize=plain,
        do_not_specialize_on_alignment=moved,
    )  # fmt: skip


class FakeKernel:
    """A kernel whose requests are counted."""

    params = (
        parameter("x"), parameter("moved", moved=True), parameter("count"),
        parameter("length", plain=True), parameter("eps"), parameter("BLOCK", constexpr=True),
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def warmup(self, *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        self.asked.append((args, grid, options))


def a_making() -> _Making:
    """Never handed anything: these kernels only count."""
    return cast("_Making", SimpleNamespace(expected_s=0.0))


MEMORY = torch.zeros(64)
USUAL: dict[str, Any] = {
    "x": MEMORY, "moved": MEMORY, "count": 32, "length": 7, "eps": 0.5, "BLOCK": 64,
}  # fmt: skip


def ask(requests: Requests, kernel: FakeKernel, warps: int = 4, **changes: Any) -> int:
    values = {**USUAL, **changes}
    block = values.pop("BLOCK")
    requests.ask(kernel, (1,), *values.values(), BLOCK=block, num_warps=warps)
    return len(kernel.asked)


@pytest.mark.parametrize(
    "changes",
    [{}, {"count": 48}, {"length": 16}, {"length": 1}, {"eps": 0.0}, {"moved": MEMORY[1:]},
     {"x": torch.ones(3, 5)}],
    ids=str,
)  # fmt: skip
def test_calls_of_one_kernel_ask_once(changes):
    requests, kernel = Requests(a_making()), FakeKernel()
    assert ask(requests, kernel) == 1
    assert ask(requests, kernel, **changes) == 1


@pytest.mark.parametrize(
    "changes",
    [{"count": 33}, {"count": 1}, {"count": 2**31}, {"length": 2**40}, {"x": MEMORY[1:]},
     {"x": MEMORY.half()}, {"BLOCK": 128}, {"warps": 8}, {"x": None}, {"eps": 1}],
    ids=str,
)  # fmt: skip
def test_calls_of_different_kernels_ask_for_each(changes):
    requests, kernel = Requests(a_making()), FakeKernel()
    ask(requests, kernel)
    assert ask(requests, kernel, **changes) == 2
    assert ask(requests, kernel, **changes) == 2
    assert ask(requests, FakeKernel()) == 1


class FakeMode:
    """As much of Triton's mode as is used."""

    def __init__(self, executor: Executor, *, ignore_errors: bool) -> None:
        self.executor, self.futures = executor, list[Future[Any]]()
        assert ignore_errors

    def __enter__(self) -> None:
        FakeMode.active = self

    def __exit__(self, *_: object) -> None:
        for future in self.futures:
            future.exception()

    active: FakeMode

    @classmethod
    def submit(cls, make: Callable[[], Any]) -> None:
        cls.active.futures.append(cls.active.executor.submit(make))


class Made:
    """A compiled kernel that notes where it was loaded."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error, self.loaded_in = name, error, ""
        self.src, self.metadata = f"source of {name}", {}
        self.was_alone = False

    @property
    def run(self) -> None:
        if self.error is not None:
            raise self.error
        self.was_alone = loads_or_captures.locked()
        self.loaded_in = threading.current_thread().name


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(AsyncCompileMode=FakeMode)
    module.launchers = []
    active = SimpleNamespace(launcher_cls=lambda src, _: module.launchers.append(src))
    runtime = SimpleNamespace(driver=SimpleNamespace(active=active))
    monkeypatch.setitem(sys.modules, "triton", module)
    monkeypatch.setitem(sys.modules, "triton.runtime", runtime)
    return module


@pytest.mark.parametrize("loads", [False, True])
def test_what_is_asked_for_is_made_by_threads_that_end(triton, loads):
    kernels = [Made("one"), Made("one"), Made("other")]
    with loading() if loads else nullcontext(), compiling() as requests:
        assert requests is not None
        for kernel in kernels:
            FakeMode.submit(lambda kernel=kernel: kernel)
    assert all(future.done() for future in FakeMode.active.futures)
    assert all(kernel.loaded_in != "MainThread" for kernel in kernels)
    assert all(bool(kernel.loaded_in) == loads for kernel in kernels)
    assert kernel_compiling._threads._threads is None


def test_threads_are_shared_by_all_that_compile(triton):
    with compiling():
        first = kernel_compiling._threads._threads
        with compiling():
            assert kernel_compiling._threads._threads is first
        assert kernel_compiling._threads._threads is first
    assert kernel_compiling._threads._threads is None


def test_tritons_hash_of_itself_is_made_once_however_many_come_first(triton, monkeypatch):
    made, barrier = list[str](), threading.Barrier(4)

    @cache  # as in Triton: whoever comes before it is there makes another one
    def triton_key() -> str:
        threading.Event().wait(0.01)
        made.append("hash")
        return "hash"

    def come() -> None:
        barrier.wait(10)
        wake()

    module = SimpleNamespace(triton_key=triton_key)
    monkeypatch.setitem(sys.modules, "triton.runtime.cache", module)
    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["hash"]


class SlowKernel(FakeKernel):
    """Handed to the threads when it is asked for, as by Triton; notes when it is made."""

    def __init__(self, name: str, made: list[str], gate: threading.Event) -> None:
        super().__init__()
        self.__name__, self.made, self.gate = name, made, gate

    def warmup(self, *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        FakeMode.submit(self.make)

    def make(self) -> Made:
        self.gate.wait(10)
        self.made.append(self.__name__)
        return Made(self.__name__)


def test_what_takes_longest_is_made_first(triton, monkeypatch):
    monkeypatch.setattr(kernel_compiling.os, "cpu_count", lambda: 1)
    made, gate = list[str](), threading.Event()
    names = ["first", "small", "small", "draw_codes", "unit_kernel", "small"]
    with compiling() as requests:
        threads = kernel_compiling._threads._threads
        assert requests is not None
        assert threads is not None
        for name in names:
            ask(requests, SlowKernel(name, made, gate))
            while name == "first" and threads.num_waiting:
                pass  # until the only thread has it
        gate.set()
    assert made == ["first", "unit_kernel", "draw_codes", "small", "small", "small"]


def test_what_stands_back_is_made_after_all_others_by_few_threads(triton, monkeypatch):
    monkeypatch.setattr(kernel_compiling.os, "cpu_count", lambda: 8)
    made, gate, others = list[str](), threading.Event(), threading.Event()
    end, running, most = threading.Event(), set[int](), list[int]()

    def stand_back() -> Made:
        assert gate.wait(10)
        running.add(threading.get_ident())
        most.append(len(running))
        threading.Event().wait(0.01)
        running.discard(threading.get_ident())
        made.append("recordings")
        return Made("recordings")

    def go_first() -> Made:
        made.append("steps")
        others.set()
        return Made("steps")

    with compiling(), loading(end), compiling():
        for _ in range(6):
            FakeMode.submit(stand_back)
        with loading(), compiling():
            FakeMode.submit(go_first)
        assert others.wait(10)
        gate.set()
    assert made == ["steps"] + ["recordings"] * 6
    assert max(most) <= 2


def test_what_stands_back_is_loaded_while_nothing_is_captured(triton):
    kernel, done = Made("recordings"), threading.Event()
    with loads_or_captures:  # a capture

        def compile_it() -> None:
            with loading(threading.Event()), compiling():
                FakeMode.submit(lambda: kernel)
            done.set()

        thread = threading.Thread(target=compile_it)
        thread.start()
        while not triton.launchers:
            assert not done.wait(0.001)
        assert not done.wait(0.05)
        assert not kernel.loaded_in
    thread.join()
    assert kernel.was_alone
    assert triton.launchers == ["source of recordings"]
    assert not loads_or_captures.locked()


def test_what_stands_back_is_given_up_once_that_is_told(triton):
    end = threading.Event()
    end.set()
    kernel = Made("recordings")
    with pytest.raises(RuntimeError, match="given up"), loading(end), compiling():
        FakeMode.submit(lambda: kernel)
    assert not kernel.loaded_in


def fail() -> Made:
    raise ValueError("not this one")


@pytest.mark.parametrize("make", [fail, lambda: Made("large", ValueError("not this one"))])
def test_a_kernel_that_cannot_be_made_or_loaded_is_told_unless_that_is_ignored(triton, make):
    good = Made("good")

    def make_both(*, ignores_errors: bool) -> None:
        with loading(), compiling(ignores_errors=ignores_errors):
            FakeMode.submit(make)
            FakeMode.submit(lambda: good)

    with pytest.raises(ValueError, match="not this one"):
        make_both(ignores_errors=False)
    assert good.loaded_in
    make_both(ignores_errors=True)


def test_a_triton_without_the_mode_compiles_nothing_ahead(triton):
    del triton.AsyncCompileMode
    with compiling() as requests:
        assert requests is None
