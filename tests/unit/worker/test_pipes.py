"""The pipes to the engine's process are wide where the system allows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from backend.worker.process_transport import widen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a wish")


@pytest.fixture
def pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    yield writer
    os.close(reader)
    os.close(writer)


def size_of(pipe: int) -> int:
    import fcntl

    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_pipe_is_widened_or_left_as_it_was(pipe: int):
    before = size_of(pipe)
    widen(pipe)
    assert size_of(pipe) in {before, 1 << 20}


def test_a_system_that_refuses_gets_the_usual_pipe(pipe: int, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    asked: list[int] = []

    def refuse(pipe: int, command: int, size: int) -> int:
        asked.append(size)
        raise PermissionError(1, "beyond pipe-user-pages-soft")

    before = size_of(pipe)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        widen(pipe)
    assert asked == [1 << 20]
    assert size_of(pipe) == before
