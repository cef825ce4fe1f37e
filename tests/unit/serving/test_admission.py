"""Who is refused, with what forecast, and who is given up for lateness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.core.errors import DeadlineExceededError, OverloadedError
from backend.core.types import FinishReason, SynthesisRequest
from backend.serving.limits import SchedulerLimits
from tests.unit.serving.simulation import CPU, GPU, Arrival, Costs, Player, Room, gaps

REFUSE = SchedulerLimits(admission="refuse")


def submit(room: Room, request: SynthesisRequest) -> Player:
    player = Player(room.scheduler, room.clock, request.request_id, room.clock.now)
    room.scheduler.submit(request, player)
    return player


def test_streams_beyond_what_the_engine_can_supply_are_refused_and_the_others_are_heard_well():
    arrivals = [Arrival(idx * 0.7, 600, 50) for idx in range(24)]
    players = Room(REFUSE, CPU).play(arrivals)
    refused = [player for player in players if player.error]
    served = [player for player in players if not player.error]
    assert refused
    assert len(served) >= 8
    assert all(isinstance(player.error, OverloadedError) for player in refused)
    # the one gap is that of a forecast which has not seen so many rows yet
    assert gaps(served) <= 1
    assert gaps(Room(SchedulerLimits(), CPU).play(arrivals)) > 100


def test_a_first_burst_after_a_start_is_not_admitted_blindly():
    arrivals = [Arrival(0.0, 600, 50) for _ in range(24)]
    blind = Room(REFUSE, CPU, is_timed=False).play(arrivals)
    assert sum(player.error is None for player in blind) == 24
    seeing = Room(REFUSE, CPU).play(arrivals)
    assert 4 <= sum(player.error is None for player in seeing) <= 12


@pytest.mark.parametrize(("prefill_ms", "num_served"), [(9.0, 4), (9000.0, 2)])
def test_prompts_are_part_of_what_listeners_cost(prefill_ms: float, num_served: int):
    costs = replace(GPU, prefill=(prefill_ms, 0.0))
    arrivals = [Arrival(6.5 * idx, 900) for idx in range(4)]  # 42 s each
    players = Room(replace(REFUSE, max_ttfa_s=0.0), costs).play(arrivals)
    assert sum(player.error is None for player in players) == num_served


def test_a_refusal_tells_the_forecast_and_when_to_come_back():
    room = Room(replace(REFUSE, max_ttfa_s=0.5), GPU, max_slots=1)
    room.play([Arrival(0.0, 30), Arrival(0.0, 100)], until=1.0)  # learns what things cost
    room.play([Arrival(room.clock.now, 1000)], until=room.clock.now + 1)
    late = room.arrive(Arrival(room.clock.now, 100))
    assert isinstance(late.error, OverloadedError)
    assert late.error.predicted_ttfa_s is not None
    assert late.error.predicted_ttfa_s > 0.5
    assert late.error.retry_after_s >= 1
    assert "MAX_TTFA_S" in str(late.error)


def test_an_idle_engine_refuses_nobody():
    room = Room(replace(REFUSE, max_ttfa_s=0.001), Costs(step=(100.0, 0.0)))
    (player,) = room.play([Arrival(0.0, 5)])
    (again,) = room.play([Arrival(room.clock.now, 5)])
    assert (player.error, again.error) == (None, None)


@pytest.mark.parametrize("fields", [{"stream": False}, {"buffered_s": 0.0}, {"buffered_s": 2.0}])
def test_files_and_speech_that_has_begun_are_not_refused(fields: dict[str, float]):
    room = Room(replace(REFUSE, max_ttfa_s=0.001), GPU, max_slots=1)
    room.play([Arrival(0.0, 500)], until=0.5)
    assert submit(room, SynthesisRequest("new", "10")).error is not None
    waits = submit(room, SynthesisRequest("other", "10", **fields))  # pyright: ignore[reportArgumentType]
    room.play([])
    assert waits.error is None
    assert waits.num_frames == 10


def test_without_refuse_everybody_waits():
    players = Room(SchedulerLimits(max_ttfa_s=0.001), GPU, max_slots=1).play(
        [Arrival(0.0, 100) for _ in range(5)]
    )
    assert all(player.summary for player in players)


def test_a_request_that_waits_too_long_for_a_slot_is_given_up_on_time():
    room = Room(SchedulerLimits(request_timeout_s=3.0), GPU, max_slots=1)
    room.play([Arrival(0.0, 4000, takes=False)])  # holds the slot and takes nothing
    late = room.arrive(Arrival(room.clock.now, 10))
    started = room.clock.now
    assert room.scheduler.step()
    assert room.scheduler.idle_s == pytest.approx(3.0)  # the loop may sleep until then
    room.play([], until=started + 10)
    assert isinstance(late.error, DeadlineExceededError)
    assert "REQUEST_TIMEOUT_S" in str(late.error)
    assert room.scheduler.num_waiting == 0


@pytest.mark.parametrize("frames", [1, 400])
def test_a_request_that_runs_too_long_is_given_up_and_its_slot_is_free(frames: int):
    room = Room(SchedulerLimits(request_timeout_s=1.0), Costs(step=(500.0, 0.0)))
    slow = room.play([Arrival(0.0, 400)])[0]
    assert isinstance(slow.error, DeadlineExceededError)
    assert room.engine.left == {}
    assert room.clock.now < 3


def test_time_in_which_the_listener_takes_nothing_does_not_count():
    room = Room(SchedulerLimits(request_timeout_s=2.0))
    room.play([Arrival(0.0, 40, takes=False)])
    (player,) = room.players
    room.clock.now += 100
    room.scheduler.step()
    assert player.error is None
    player.takes = True
    for _ in range(4):
        room.scheduler.grant("0")
    room.play([])
    assert player.summary is not None
    assert player.num_frames == 40


def test_the_adaptive_limit_grows_with_the_text_and_the_measured_time():
    room = Room(SchedulerLimits(), Costs(step=(1000.0, 0.0)), max_slots=1)
    room.play([Arrival(0.0, 3)])
    patient = submit(room, SynthesisRequest("long", "2" * 40, codes=np.zeros((2, 8), np.int32)))
    endless = submit(room, SynthesisRequest("endless", "100000"))  # six characters, no end
    room.play([], until=room.clock.now + 500)
    assert patient.summary is not None
    assert patient.summary.finish_reason is FinishReason.CODES
    assert isinstance(endless.error, DeadlineExceededError)
    assert 30 < room.clock.now < 200
