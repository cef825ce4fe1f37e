"""Rooms of listeners in simulated time: who runs dry, who waits, who is harmed by whom."""

from __future__ import annotations

import pytest

from backend.core.types import SynthesisRequest
from backend.serving.limits import SchedulerLimits
from tests.unit.serving.simulation import CPU, GPU, Arrival, Costs, Player, Room, gaps

FIFO = SchedulerLimits(scheduling="fifo")
DEADLINE = SchedulerLimits(scheduling="deadline")
LONG_VOICES = Costs(prefill=(4.0, 0.2))
"""A voice of 20 s takes 90 ms to read: twice the time that a frame lasts."""


def crowd(num: int, within_s: float) -> list[Arrival]:
    """Listeners of about 10 s of speech each, every fourth with a long recording of its voice."""
    return [
        Arrival(idx * within_s / num, 215 + idx * 7 % 40, 430 if idx % 4 == 0 else 200)
        for idx in range(num)
    ]


@pytest.mark.parametrize(
    ("num", "within_s", "costs"),
    [
        (1, 0.0, GPU),
        (8, 0.0, GPU),
        (16, 0.0, GPU),
        (64, 0.0, GPU),
        (64, 8.0, GPU),
        (16, 0.0, LONG_VOICES),
        (64, 5.0, LONG_VOICES),
        (4, 0.0, CPU),
        (8, 5.0, CPU),
    ],
)
def test_nobody_runs_dry_where_the_engine_is_fast_enough(num: int, within_s: float, costs: Costs):
    arrivals = crowd(num, within_s)
    players = Room(DEADLINE, costs).play(arrivals)
    assert gaps(players) == 0
    assert [player.num_frames for player in players] == [arrival.frames for arrival in arrivals]
    assert sum(player.summary.num_underruns for player in players if player.summary) == 0


@pytest.mark.parametrize(
    ("num", "within_s", "costs"),
    [(8, 0.0, GPU), (64, 0.0, GPU), (64, 5.0, LONG_VOICES), (4, 0.0, CPU)],
)
def test_in_turn_the_same_listeners_run_dry(num: int, within_s: float, costs: Costs):
    room = Room(FIFO, costs)
    players = room.play(crowd(num, within_s))
    assert gaps(players) > 0
    told = sum(player.summary.num_underruns for player in players if player.summary)
    assert told == gaps(players)  # the scheduler's own count is what the listeners heard


def test_the_first_sound_of_one_listener_takes_one_prefill_one_step_and_one_frame():
    (player,) = Room(DEADLINE).play([Arrival(0.0, 100, 200)])
    assert player.ttfa_s == pytest.approx((4 + 0.05 * 220 + 6.1 + 2.2) / 1000)


def test_late_comers_are_heard_soon_although_64_are_talking():
    room = Room(DEADLINE, max_slots=72)
    late = [Arrival(12.0 + idx, 100, 200) for idx in range(8)]
    players = room.play([*(Arrival(idx / 8, 900, 200) for idx in range(64)), *late])
    assert gaps(players) == 0
    assert max(player.ttfa_s for player in players[64:]) < 0.3


def test_a_prefill_that_never_fits_starts_after_a_bounded_time():
    slow = Costs(prefill=(4.0, 20.0))  # 8 s for this voice: longer than any buffer
    room = Room(DEADLINE, slow)
    room.play([Arrival(0.0, 2000), Arrival(0.1, 20)], until=1.0)
    room.play([Arrival(1.0, 20, 400)])
    patient = room.players[-1]
    assert patient.summary is not None
    assert patient.summary.queue_s <= 2.5


def test_whole_files_yield_to_streams_and_are_finished_all_the_same():
    files = [Arrival(0.0, 400, stream=False) for _ in range(4)]
    streams = crowd(40, 6.0)
    room = Room(DEADLINE, CPU, max_slots=8)
    players = room.play([*files, *streams])
    assert all(player.summary for player in players)
    assert [player.num_frames for player in players if player.num_frames == 400] == [400] * 4
    alone = Room(DEADLINE, CPU, max_slots=8).play(streams[:4])
    assert gaps(alone) == 0


def test_a_file_that_has_waited_goes_before_streams_that_come_now():
    room = Room(DEADLINE, GPU, max_slots=1)
    steady = [Arrival(idx * 0.5, 100) for idx in range(60)]  # always somebody in the queue
    (file, *_) = room.play([Arrival(0.01, 50, stream=False), *steady])[1:2]
    assert file.summary is not None
    assert file.summary.queue_s < 8


def test_streams_do_not_suffer_from_files_beside_them():
    files = [Arrival(0.0, 600, stream=False) for _ in range(8)]
    players = Room(DEADLINE, GPU).play([*files, *crowd(32, 3.0)])
    assert gaps(players[8:]) == 0


def test_a_slow_listener_pauses_only_itself():
    room = Room(DEADLINE)
    stuck = Arrival(0.0, 2000, takes=False)
    players = room.play([stuck, *crowd(8, 0.5)])
    assert players[0].num_frames == 1 + 2 + 4 + 8  # its credit of four chunks
    assert not players[0].has_ended
    assert gaps(players[1:]) == 0
    assert all(player.summary for player in players[1:])
    assert room.scheduler.step() is False  # nothing to do for one that takes nothing


def test_speech_that_goes_on_comes_before_the_buffer_is_empty():
    room = Room(DEADLINE)
    room.play([Arrival(0.0, 30)])
    listener = room.players[0]
    heard_until = listener.dry_at
    room.scheduler.submit(
        SynthesisRequest("more", "40", buffered_s=heard_until - room.clock.now), listener
    )
    listener.name = "more"
    room.play([Arrival(room.clock.now, 50) for _ in range(20)])
    assert listener.num_frames == 70
    assert listener.gaps == []


def test_a_listener_of_fast_speech_runs_dry_in_half_the_time():
    slow = Costs(step=(35.0, 0.0))  # faster than speech, slower than speech at twice the speed
    underruns: list[int] = []
    for speed in (1.0, 2.0):
        room = Room(DEADLINE, slow)
        player = Player(room.scheduler, room.clock, "a", 0.0)
        room.scheduler.submit(SynthesisRequest("a", "100", speed=speed), player)
        room.play([])
        assert player.summary is not None
        underruns.append(player.summary.num_underruns)
    assert underruns[0] == 0
    assert underruns[1] > 0
