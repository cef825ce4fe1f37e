"""Rooms of listeners in simulated time: who runs dry, who waits, who is harmed by whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.core.types import SynthesisRequest
from backend.serving.limits import SchedulerLimits
from tests.unit.serving.simulation import CPU, GPU, Arrival, Costs, Player, Room, gaps

FIFO = SchedulerLimits(scheduling="fifo")
DEADLINE = SchedulerLimits(scheduling="deadline")
LARGE_CARD = Costs(prefill=(2.0, 0.02), step=(1.2, 0.02), codec=(1.2, 0.03, 0.06))
SLOW = Costs(step=(38.0, 0.0), codec=(12.0, 0.0, 1.0))
"""A frame by itself takes longer than it lasts, many at once do not."""
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
    assert player.ttfa_s == pytest.approx((4 + 0.05 * 223 + 6.1 + 2.2) / 1000)


def test_a_crowd_that_comes_at_once_is_heard_soon_where_prompts_are_short():
    arrivals = [Arrival(0.0, 215 + idx * 7 % 40, 200) for idx in range(64)]
    room = Room(DEADLINE, LARGE_CARD, keeps_prompts=True)
    room.play([Arrival(0.0, 20, 200)])  # the voice is known
    players = room.play([replace(arrival, at=room.clock.now) for arrival in arrivals])
    assert gaps(players) == 0
    assert sorted(player.ttfa_s for player in players)[60] < 0.3


def test_prompts_that_are_run_together_are_heard_sooner_still():
    ttfa_s: list[float] = []
    for reads_together in (False, True):
        room = Room(DEADLINE, LARGE_CARD, keeps_prompts=True, reads_together=reads_together)
        room.play([Arrival(0.0, 20, 200)])
        now = room.clock.now
        players = room.play([Arrival(now, 215 + idx % 40, 200) for idx in range(64)])
        assert gaps(players) == 0
        assert all(player.summary for player in players)
        ttfa_s.append(sorted(player.ttfa_s for player in players)[60])
    assert ttfa_s[1] < 0.7 * ttfa_s[0]


def test_several_prompts_of_one_round_do_not_break_a_stream_that_is_heard():
    room = Room(DEADLINE, LARGE_CARD)
    room.play([Arrival(0.0, 900)], until=0.3)
    crowd_of_new = [Arrival(0.3 + idx // 16 / 10, 100, 430) for idx in range(48)]
    room.play(crowd_of_new)
    assert gaps(room.players) == 0
    prefills = [started for name, started in room.engine.calls if name == "prefill"]
    steps = [started for name, started in room.engine.calls if name == "step"]
    rounds = np.searchsorted(steps, prefills)
    assert np.bincount(rounds).max() > 1  # several between two steps


def test_a_voice_that_is_known_is_admitted_by_what_is_left_to_read():
    slow = Costs(prefill=(4.0, 1.0))  # 400 ms for this voice, 10 for a text alone
    waits: list[float] = []
    for keeps_prompts in (True, False):
        room = Room(DEADLINE, slow, keeps_prompts=keeps_prompts)
        room.play([Arrival(0.0, 30, 400)])
        start = room.clock.now
        room.play([Arrival(start, 300), Arrival(start + 0.1, 30, 400)])
        assert gaps(room.players) == 0
        waits.append(room.players[-1].ttfa_s)
    assert waits[0] < 0.1 < 0.4 < waits[1]


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
    assert patient.summary.queue_s <= 11


def test_a_prefill_waits_longer_where_buffers_still_grow():
    # one stream takes 80 % of the time, so its buffer grows slowly towards the second's 0.8 s
    room = Room(DEADLINE, Costs(prefill=(4.0, 2.0), step=(34.0, 0.5)))
    players = room.play([Arrival(0.0, 600), Arrival(0.5, 50, 380)])
    assert gaps(players) == 0
    assert players[1].summary is not None
    assert players[1].summary.queue_s > 2.0


@pytest.mark.parametrize(("costs", "first"), [(GPU, 1), (CPU, 1), (SLOW, 8)])
def test_the_first_chunk_is_as_large_as_the_machine_is_slow(costs: Costs, first: int):
    room = Room(DEADLINE, costs)
    player = room.arrive(Arrival(0.0, 100))
    while player.first_at is None:
        room.scheduler.step()
    assert player.num_frames == first
    room.play([])
    assert gaps([player]) == 0


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
