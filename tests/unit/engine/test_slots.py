"""Who has which slot."""

import pytest

from backend.core.errors import GenerationError
from backend.engine.slots import SlotPool


def test_a_slot_that_comes_back_is_the_next_one_taken_and_knows_nothing():
    pool = SlotPool(3)
    slots = [pool.take() for _ in range(3)]
    assert slots == [0, 1, 2]
    with pytest.raises(GenerationError, match="3 slots"):
        pool.take()
    pool[1].num_frames = 7
    pool.give_back(0)
    pool.give_back(1)
    with pytest.raises(KeyError, match="slot 1 is not taken"):
        pool[1]
    with pytest.raises(KeyError, match="slot 1 is not taken"):
        pool.give_back(1)
    assert [pool.take(), pool.take()] == [1, 0]
    assert pool[1].num_frames == 0


def test_a_slot_that_was_never_taken_is_an_error():
    with pytest.raises(KeyError, match="slot 0 is not taken"):
        SlotPool(1)[0]


def test_slots_that_are_required_must_all_be_taken():
    pool = SlotPool(3)
    pool.require([])
    pool.require([pool.take(), pool.take()])
    with pytest.raises(KeyError, match="slot 2 is not taken"):
        pool.require([1, 2])
