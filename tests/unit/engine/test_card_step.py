"""Which steps of a card are made ahead, and which serves a batch."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch

from backend.core.settings import read_settings
from backend.engine import card_step
from backend.engine.attention import StepPlan
from backend.engine.card_step import BoundSteps
from backend.engine.decode_step import FrameDecoder
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


@pytest.mark.parametrize(
    ("why_not", "why_no_batch", "only_size", "is_int8", "resident", "batch"),
    [(None, None, None, False, 4, 16), (None, None, None, True, 8, 32),
     (None, "no compiler", None, False, 16, 0), ("no room", None, None, False, 0, 16),
     (None, None, 8, False, 16, 16), ("no room", "no compiler", None, False, 0, 0)],
)  # fmt: skip
def test_each_size_takes_the_fastest_kernels_there_are(
    monkeypatch: pytest.MonkeyPatch, why_not: str | None, why_no_batch: str | None,
    only_size: int | None, is_int8: bool, resident: int, batch: int,
):  # fmt: skip
    made = Mock()
    answers = {"_why_not_fused": None, "_why_not_resident": why_not, "_capability": (9, 0),
               "_why_not_batch": why_no_batch, "has_int8": is_int8}  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(card_step, name, Mock(return_value=answer))
    monkeypatch.setattr(card_step, "_fused_maker", made)
    decoder = Mock(spec=FrameDecoder)
    monkeypatch.setattr(card_step, "replace", lambda value, **_: value)
    decoder.store = Mock(max_positions=1024)
    card = card_step.choose_card_step(
        decoder, Mock(), room=None, is_fused=True, is_resident=True, is_batch=True,
        only_size=only_size,
    )  # fmt: skip
    assert made.call_args.args[2:] == (resident, batch)
    told = [note.split(":")[0] for note in card.notes]
    wanted = {"RESIDENT_KERNELS": why_not, "BATCH_KERNELS": why_no_batch}
    assert told == [name for name, reason in wanted.items() if reason]
