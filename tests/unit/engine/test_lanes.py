"""The codec in a lane of its own: what was begun is right whenever it is collected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.core.settings import read_settings
from backend.engine.decode_frames import StreamDecoder
from backend.engine.lanes import Mark, num_streams_of
from backend.models.codec.codec import Codec
from tests.unit.engine.test_decode_frames import assert_close, streams_of, whole
from tests.unit.models.codec_building import tiny_codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny_codec()


@dataclass(eq=False)
class LateMark:
    """Reached when somebody waits for it, or for a later one."""

    lane: LateLane
    at: int

    @property
    def is_reached(self) -> bool:
        return self.lane.reached >= self.at

    def wait(self) -> None:
        self.lane.reached = max(self.lane.reached, self.at)

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, LateMark)
        return float(self.at - earlier.at)


@dataclass
class LateLane:
    """A device that is never done before somebody waits for it; notes what is queued where."""

    reached: int = 0
    num_marks: int = 0
    depth: int = 0
    was_inside: list[bool] = field(default_factory=list)

    @contextmanager
    def working(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def catch_up(self) -> None: ...

    def mark(self) -> LateMark:
        self.num_marks += 1
        return LateMark(self, self.num_marks)


def decoder_in(lane: LateLane, codec: Codec, num_slots: int) -> StreamDecoder:
    decoder = StreamDecoder(codec, num_slots, 8, lane=lane)
    steps, pool = decoder._steps, decoder._steps.pool
    reset_row = pool.reset_row

    def watched_reset(row_idx: int) -> None:
        lane.was_inside.append(lane.depth > 0)
        reset_row(row_idx)

    def watched_steps(*args: object) -> object:
        lane.was_inside.append(lane.depth > 0)
        return steps(*args)  # pyright: ignore[reportArgumentType]

    pool.reset_row = watched_reset  # pyright: ignore[reportAttributeAccessIssue]
    watched_steps.pool = pool  # pyright: ignore[reportFunctionMemberAccess]
    decoder._steps = watched_steps  # pyright: ignore[reportAttributeAccessIssue]
    return decoder


@pytest.mark.parametrize(
    ("asked", "max_slots", "wanted"), [(0, 16, 1), (0, 17, 2), (1, 128, 1), (2, 4, 2)]
)
def test_a_crowd_has_a_lane_for_the_codec(asked: int, max_slots: int, wanted: int):
    settings = read_settings(None, num_streams=asked, max_slots=max_slots)
    assert num_streams_of(settings) == wanted


def test_beginning_waits_for_nothing_and_everything_is_queued_in_the_lane(codec):
    [codes] = streams_of(codec, 1, 12)
    lane = LateLane()
    work = decoder_in(lane, codec, 1).begin([FrameChunk(0, codes)])
    assert not work.is_ready
    assert lane.reached == 0
    [samples] = work.collect()
    assert work.is_ready
    assert work.seconds == 1  # one mark from the first to the last
    assert_close(samples, whole(codec, codes))
    assert len(lane.was_inside) >= 2
    assert all(lane.was_inside)


def test_calls_that_are_collected_late_are_those_that_are_waited_for(codec):
    first, second = streams_of(codec, 2, 20)
    decoder = decoder_in(LateLane(), codec, 2)
    cuts = [(0, 1), (1, 3), (3, 11), (11, 20)]
    begun = [
        decoder.begin([FrameChunk(0, first[:, a:b]), FrameChunk(1, second[:, a:b])])
        for a, b in cuts
    ]
    heard: list[list[NDArray[np.float32]]] = [work.collect() for work in reversed(begun)][::-1]
    for idx, codes in enumerate((first, second)):
        assert_close(np.concatenate([parts[idx] for parts in heard]), whole(codec, codes))


def test_a_slot_may_go_to_another_stream_while_its_frames_are_in_work(codec):
    first, second = streams_of(codec, 2, 6)
    decoder = decoder_in(LateLane(), codec, 1)
    abandoned = decoder.begin([FrameChunk(0, first)])
    decoder.release(0)
    work = decoder.begin([FrameChunk(0, second)])
    [samples] = work.collect()
    assert abandoned.is_ready
    assert_close(samples, whole(codec, second))
