"""Which steps of a card are made ahead, and which serves a batch."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch

from backend.core.settings import read_settings
from backend.engine.attention import StepPlan
from backend.engine.card_step import BoundSteps
from backend.engine.steps import only_batch_size


def test_steps_that_serve_any_length_are_made_once_a_size():
    lengths = torch.zeros(4, dtype=torch.int64)
    decoder = Mock(store=Mock(max_positions=1024, scratch_slot=3, lengths=lengths))
    made: list[StepPlan] = []
    ahead: list[int] = []

    def make(slot_ids: torch.Tensor, plan: StepPlan) -> Callable[[], torch.Tensor]:
        made.append(plan)
        return lambda: slot_ids

    steps = BoundSteps(make, decoder, None, lambda all: ahead.append(len(all)), boundless_rows=2)
    steps.warm_up(3)
    sizes_and_bounds = [(plan.num_rows, plan.length_bound) for plan in made]
    assert sizes_and_bounds == [(1, 1024), (2, 1024), (4, 256), (4, 512), (4, 1024)]
    assert ahead == [5]
    ids = torch.tensor([2, 3])
    assert steps.run(ids, StepPlan(1, 256)).tolist() == [2]
    assert steps.num_steps == 5


def test_one_batch_size_makes_one_step():
    lengths = torch.zeros(9, dtype=torch.int64)
    decoder = Mock(store=Mock(max_positions=1024, scratch_slot=8, lengths=lengths))
    made: list[StepPlan] = []

    def make(slot_ids: torch.Tensor, plan: StepPlan) -> Callable[[], torch.Tensor]:
        made.append(plan)
        return lambda: slot_ids

    steps = BoundSteps(make, decoder, None, batch_sizes=(8,), boundless_rows=8)
    steps.warm_up(5)
    assert made == [StepPlan(8, 1024)]
    ids = torch.arange(8)
    assert steps.run(ids, StepPlan(5, 256)).tolist() == [0, 1, 2, 3, 4]
    assert steps.run(ids, StepPlan(1, 512)).tolist() == [0]
    assert steps.num_steps == 1


@pytest.mark.parametrize(
    ("wish", "max_slots", "size"),
    [("auto", 1, 1), ("auto", 3, 4), ("auto", 8, 8), ("auto", 9, None), ("on", 33, 64),
     ("off", 4, None)],
)  # fmt: skip
def test_one_batch_size_holds_all_slots(wish: str, max_slots: int, size: int | None):
    settings = read_settings(None, batch_invariant=wish, max_slots=max_slots)
    assert only_batch_size(settings) == size
