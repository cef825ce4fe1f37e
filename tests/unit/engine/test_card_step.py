"""Which steps of a card are made ahead, and which serves a batch."""

from collections.abc import Callable
from unittest.mock import Mock

import torch

from backend.engine.attention import StepPlan
from backend.engine.card_step import BoundSteps


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
