"""The codec beside the decode steps: same sound, sooner; nobody who left is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.core.contract import FrameChunk
from backend.serving.limits import SchedulerLimits
from backend.serving.scheduler import Scheduler
from tests.unit.serving.simulation import SILENCE, Arrival, Costs, Room, SimulatedEngine, gaps

LARGE_CARD = Costs(prefill=(2.0, 0.02), step=(1.2, 0.02), codec=(1.2, 0.03, 0.06))


@dataclass
class SimulatedWork:
    """A call of the codec that is done at ``ends_at``."""

    engine: BesideEngine
    num_chunks: int
    ends_at: float
    seconds: float
    fails: bool = False

    @property
    def is_ready(self) -> bool:
        return self.engine.clock.now >= self.ends_at

    def collect(self) -> list[np.ndarray]:
        self.engine.clock.now = max(self.engine.clock.now, self.ends_at)
        if self.fails:
            raise RuntimeError("the codec broke")
        return [SILENCE] * self.num_chunks


@dataclass
class BesideEngine(SimulatedEngine):
    """Its codec takes its time while steps and prompts take theirs."""

    is_beside: bool = True
    fails_at: int = -1
    num_calls: int = 0
    in_work: SimulatedWork | None = None
    num_steps_beside: int = 0

    def decodes_beside(self, num_rows: int) -> bool:
        return self.is_beside

    def begin_frames(self, chunks: Sequence[FrameChunk]) -> SimulatedWork:
        call, row, frame = self.costs.codec
        num_frames = sum(chunk.codes.shape[1] for chunk in chunks)
        spent_s = (call + row * len(chunks) + frame * num_frames) / 1000
        assert self.in_work is None or self.in_work.is_ready, "one call at a time"
        fails = self.num_calls == self.fails_at
        self.num_calls += 1
        self.in_work = SimulatedWork(self, len(chunks), self.clock.now + spent_s, spent_s, fails)
        return self.in_work

    def decode_step(self, slots):
        if self.in_work is not None and not self.in_work.is_ready:
            self.num_steps_beside += 1
        return super().decode_step(slots)


@dataclass
class BesideRoom(Room):
    """A room whose engine has a lane for its codec."""

    costs: Costs = LARGE_CARD
    is_beside: bool = True
    beside: BesideEngine = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.beside = BesideEngine(self.clock, self.costs, self.max_slots, is_beside=self.is_beside)
        self.engine = self.beside
        self.scheduler = Scheduler(self.engine, 32, 4, self.clock, self.limits)


FILES = [Arrival(0.0, 100 + idx % 7, stream=False) for idx in range(96)]


def test_files_are_done_sooner_and_have_as_many_frames():
    times = []
    for is_beside in (False, True):
        room = BesideRoom(is_beside=is_beside)
        players = room.play(FILES)
        assert [player.num_frames for player in players] == [each.frames for each in FILES]
        assert all(player.summary is not None for player in players)
        times.append(room.clock.now)
    assert room.beside.num_steps_beside > 100
    codec_s = sum(player.summary.codec_s for player in players if player.summary)
    assert times[1] < times[0] - 0.5 * codec_s  # the last chunks have no steps beside them


@pytest.mark.parametrize("scheduling", ["deadline", "fifo"])
def test_listeners_hear_everything_and_nobody_runs_dry(scheduling):
    arrivals = [Arrival(0.05 * idx, 150) for idx in range(32)]
    room = BesideRoom(limits=SchedulerLimits(scheduling=scheduling))
    players = room.play(arrivals)
    assert [player.num_frames for player in players] == [150] * 32
    assert gaps(players) == 0
    assert room.beside.left == {}


def test_a_listener_alone_waits_for_the_codec_no_longer_than_for_a_step():
    alone = BesideRoom(is_beside=False).play([Arrival(0.0, 20)])[0].ttfa_s
    [player] = BesideRoom().play([Arrival(0.0, 20)])
    assert player.ttfa_s <= alone + LARGE_CARD.step[0] / 1000 + 1e-3


def test_who_leaves_while_the_codec_is_at_his_frames_hears_nothing_more():
    room = BesideRoom()
    stays, leaves = (room.arrive(Arrival(0.0, 40)) for _ in range(2))
    while room.beside.in_work is None:
        room.scheduler.step()
    room.scheduler.cancel(leaves.name)
    heard = leaves.num_frames
    late = room.arrive(Arrival(0.0, 30))  # takes the slot that has become free
    room.play([])
    assert leaves.num_frames == heard
    assert not leaves.has_ended
    assert (stays.num_frames, late.num_frames) == (40, 30)
    assert room.beside.left == {}


def test_a_codec_that_fails_ends_those_whose_frames_it_had_and_nobody_else():
    room = BesideRoom()
    room.beside.fails_at = 0
    first = room.arrive(Arrival(0.0, 40))
    gone = room.arrive(Arrival(0.0, 40))
    while room.beside.in_work is None:
        room.scheduler.step()
    room.scheduler.cancel(gone.name)
    second = room.arrive(Arrival(0.0, 30))
    room.play([])
    assert "the codec broke" in str(first.error)
    assert gone.error is None
    assert (second.error, second.num_frames) == (None, 30)
    assert room.beside.left == {}


def test_after_the_engine_is_lost_nothing_of_it_is_collected():
    room = BesideRoom()
    player = room.arrive(Arrival(0.0, 40))
    while room.beside.in_work is None:
        room.scheduler.step()
    heard = player.num_frames
    room.scheduler.fail_all(RuntimeError("lost"))
    assert not room.scheduler.step()
    assert player.num_frames == heard
