"""Lanes: queues of the device's work, and marks in them.

What is queued in one lane runs in order; lanes run beside each other. On a card a lane is a CUDA
stream. The codec has one of its own (``NUM_STREAMS=2``), so that the next decode steps run while it
makes sound; with ``NUM_STREAMS=1`` its lane is everybody's, and on a CPU queueing is doing.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.settings import Settings

LOW_PRIORITY, HIGH_PRIORITY = 0, -1
"""Of CUDA streams: where both have work, decode steps go first; everybody waits for those."""
FEW_SLOTS = 16
"""Slots up to which one stream is chosen: two made 3, 10 and 10 % more speech with 32, 64 and 128
streams on an H200, fewer were not tried, and each has memory of its own."""


def num_streams_of(settings: Settings) -> int:
    """CUDA streams that ``NUM_STREAMS`` asks for."""
    return settings.num_streams or (2 if settings.max_slots > FEW_SLOTS else 1)


class Mark(Protocol):
    """A place in a lane."""

    @property
    def is_reached(self) -> bool:
        """Whether all that was queued before it is done. Does not wait."""
        ...

    def wait(self) -> None:
        """Return when that is so."""
        ...

    def seconds_since(self, earlier: Mark) -> float:
        """Time from reaching ``earlier`` to reaching this one, both of them reached."""
        ...


class Lane(Protocol):
    """Where the codec's work is queued."""

    def working(self) -> AbstractContextManager[object]:
        """Queue what is inside here."""
        ...

    def catch_up(self) -> None:
        """Let what is queued from now on wait for all that has been queued elsewhere."""
        ...

    def mark(self) -> Mark:
        """Mark the end of what has been queued so far."""
        ...


def lane_of(device: torch.device) -> Lane:
    """Give the lane in which everything on ``device`` is queued."""
    return CardLane(device) if device.type == "cuda" else HostLane()


class HostLane:
    """Work of a CPU: done when the call that asks for it returns."""

    def working(self) -> AbstractContextManager[object]:
        """Change nothing."""
        return nullcontext()

    def catch_up(self) -> None:
        """Do nothing: it has been done."""

    def mark(self) -> Mark:
        """Read the clock."""
        return _HostMark()


class _HostMark:
    is_reached = True

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def wait(self) -> None:
        pass

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _HostMark)
        return self._at - earlier._at


class CardLane:
    """A CUDA stream.

    Args:
        device: A card.
        stream: None stands for whichever stream is current.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self._device = device
        self._stream = stream

    def working(self) -> AbstractContextManager[object]:
        """Make the lane's stream the current one."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def catch_up(self) -> None:
        """Wait for the current stream, on the device."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def mark(self) -> Mark:
        """Record an event."""
        return _CardMark(self._stream or torch.cuda.current_stream(self._device))


class _CardMark:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(stream)

    @property
    def is_reached(self) -> bool:
        return self._event.query()

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _CardMark)
        return earlier._event.elapsed_time(self._event) / 1000


@dataclass(frozen=True, slots=True)
class FramesInWork:
    """Chunks that the codec was given; fulfills the ``FramesInWork`` of the contract.

    Attributes:
        samples: ``[F * frame_length]`` float32 of each chunk, once ``end`` is reached.
        begin: Before the work.
        end: Behind it, copies to the host included.
    """

    samples: list[NDArray[np.float32]]
    begin: Mark
    end: Mark

    @property
    def is_ready(self) -> bool:
        """Whether ``collect`` would return at once."""
        return self.end.is_reached

    @property
    def seconds(self) -> float:
        """What the device took, once the samples are there."""
        return self.end.seconds_since(self.begin)

    def collect(self) -> list[NDArray[np.float32]]:
        """Wait for the samples and give them."""
        self.end.wait()
        return self.samples
