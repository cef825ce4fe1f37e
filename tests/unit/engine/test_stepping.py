"""The host's side of a decode step: limits, counts, the end, and what crosses to the device."""

from __future__ import annotations

import random
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import StepResult
from backend.core.errors import GenerationError
from backend.core.types import SamplingParams
from backend.engine.attention import StepPlan
from backend.engine.card_step import BoundSteps
from backend.engine.exchange import HostExchange
from backend.engine.kv_store import KVStore
from backend.engine.slots import SlotPool
from backend.engine.stepping import Stepper

END, NUM_CODEBOOKS = 50, 3


class Room:
    """A stepper whose network draws the slot's number, or the end."""

    def __init__(self, num_slots: int, *, max_new_tokens: int = 0, max_positions: int = 16) -> None:
        self.pool = SlotPool(num_slots)
        self.store = KVStore(1, num_slots, 1, max_positions, 2, torch.device("cpu"), torch.float32)
        self.ending: set[int] = set()
        self.given: list[tuple[torch.Tensor, StepPlan]] = []
        for _ in range(num_slots):
            slot = self.pool.take()
            self.pool[slot].sampling = SamplingParams(max_new_tokens=max_new_tokens)
            self.store.set_length(slot, 5)
        self.stepper = Stepper(
            self._run, self.pool, self.store, HostExchange(), NUM_CODEBOOKS, END, (1, 4)
        )

    def _run(self, slot_ids: torch.Tensor, plan: StepPlan) -> torch.Tensor:
        self.given.append((slot_ids, plan))
        codes = slot_ids[: plan.num_rows, None].repeat(1, NUM_CODEBOOKS)
        is_over = torch.tensor([slot in self.ending for slot in codes[:, 0].tolist()])
        codes[is_over, 0] = END
        return codes

    def lengths(self) -> list[int]:
        return [self.store.length(slot) for slot in range(self.store.num_slots)]


def told(result: StepResult) -> tuple[object, ...]:
    codes = None if result.codes is None else result.codes.tolist()
    return result.slot, codes, result.hit_limit


def test_frames_come_in_the_order_asked_for_and_large_batches_are_split():
    room = Room(6)
    results = room.stepper.step([5, 0, 2, 1, 4, 3])
    assert [result.slot for result in results] == [5, 0, 2, 1, 4, 3]
    assert [result.codes.tolist() for result in results if result.codes is not None] == [
        [slot] * NUM_CODEBOOKS for slot in (5, 0, 2, 1, 4, 3)
    ]
    assert [ids.tolist() for ids, _ in room.given] == [[5, 0, 2, 1], [4, 3, 6, 6]]


def test_a_sequence_that_ends_is_told_and_not_counted():
    room = Room(3)
    room.ending = {1}
    results = room.stepper.step([0, 1, 2])
    assert [result.codes is None for result in results] == [False, True, False]
    assert not any(result.hit_limit for result in results)
    assert room.lengths() == [6, 5, 6]
    assert [room.pool[slot].num_frames for slot in range(3)] == [1, 0, 1]


def test_limits_end_a_sequence_without_a_step():
    room = Room(3, max_new_tokens=1)
    room.store.set_length(2, 15)
    assert [result.hit_limit for result in room.stepper.step([0, 2])] == [False, True]
    results = room.stepper.step([0, 1, 2])
    assert [result.hit_limit for result in results] == [True, False, True]
    assert [ids.tolist() for ids, _ in room.given] == [[0], [1]]


def test_a_card_is_told_how_many_rows_there_are_and_how_far_they_may_go():
    room = Room(3)
    room.store.set_length(1, 9)
    stepper = replace(room.stepper, knows_rows=False, bound_of=lambda length: 4 * length)
    stepper.step([0, 1, 2])
    room.stepper.step([0, 1])
    assert [plan for _, plan in room.given] == [
        StepPlan(3, 40),
        StepPlan(2, 11, has_cut=True, has_penalty=True, rows=((0, 6), (1, 10))),
    ]


def test_a_slot_without_a_prompt_is_refused():
    room = Room(1)
    room.pool[0].sampling = None
    with pytest.raises(GenerationError, match="without a prompt"):
        room.stepper.step([0])


def test_frames_of_earlier_steps_stay_as_they_were():
    room = Room(2)
    first = room.stepper.step([0])[0].codes
    room.stepper.step([1])
    assert first is not None
    assert first.tolist() == [0] * NUM_CODEBOOKS


class WatchedExchange(HostExchange):
    """Notes when a step is asked for and when it is waited for."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def send(self, codes: torch.Tensor) -> None:
        self.events.append("started")
        super().send(codes)

    def receive(self, into: NDArray[np.int32]) -> None:
        self.events.append("waited for")
        super().receive(into)


def test_limits_of_the_next_step_are_looked_at_while_a_card_works(monkeypatch):
    room, events = Room(2), list[str]()
    stepper = replace(room.stepper, exchange=WatchedExchange(events))
    able = Stepper._able
    monkeypatch.setattr(
        Stepper, "_able", lambda self, slots: events.append("looked at") or able(self, slots)
    )
    for slots in ([0, 1], [0, 1], [1]):
        stepper.step(slots)
    started = ["started", "looked at", "waited for"]
    assert events == ["looked at", *started, *started, "looked at", *started]


def test_what_was_found_ahead_changes_nothing():
    ahead, anew = Room(5, max_new_tokens=9), Room(5, max_new_tokens=9)
    chance = random.Random(3)
    for _ in range(300):
        slots = chance.sample(range(5), chance.choice((2, 5)))
        ending = {slot for slot in slots if chance.random() < 0.1}
        new = chance.randrange(5)
        for _ in range(chance.randrange(1, 4)):
            ahead.ending = anew.ending = ending
            results = ahead.stepper.step(slots), replace(anew.stepper).step(slots)
            assert [told(result) for result in results[0]] == [told(r) for r in results[1]]
        for room in (ahead, anew):
            room.pool.give_back(new)
            assert room.pool.take() == new
            room.pool[new].sampling = SamplingParams(max_new_tokens=9)
            room.store.set_length(new, 5)
    assert [plan for _, plan in ahead.given] == [plan for _, plan in anew.given]
    assert ahead.lengths() == anew.lengths()


def test_a_slot_that_is_taken_anew_is_looked_at_anew():
    room = Room(2)
    room.stepper.step([0, 1])
    room.pool.give_back(1)
    assert room.pool.take() == 1
    with pytest.raises(GenerationError, match="without a prompt"):
        room.stepper.step([0, 1])


def test_slot_numbers_cross_only_when_they_change():
    exchange = HostExchange()
    alone, pair = exchange.slot_ids([2]), exchange.slot_ids([2, 3])
    assert exchange.slot_ids([2]) is alone
    assert exchange.slot_ids([2, 3]) is pair
    other = exchange.slot_ids([3, 2])
    assert other.tolist() == [3, 2]
    assert exchange.slot_ids([2, 3]).tolist() == [2, 3]


def test_a_bound_step_follows_its_slots_from_batch_to_batch():
    lengths = torch.zeros(4, dtype=torch.int64)
    decoder = Mock(store=Mock(max_positions=512, scratch_slot=3, lengths=lengths))
    steps = BoundSteps(lambda ids, _: lambda: ids.clone(), decoder, None)
    first, second = torch.tensor([0, 1]), torch.tensor([2, 0])
    seen = [steps.run(ids, StepPlan(2, 256)).tolist() for ids in (first, first, second, first)]
    assert seen == [[0, 1], [0, 1], [2, 0], [0, 1]]
