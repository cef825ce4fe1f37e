"""Drawing on the host: the same codes as with tensors, edges included."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.core.types import SamplingParams
from backend.engine.host_sampling import HostSlots, draw_code
from backend.engine.noise import exponential_noise
from backend.engine.sampling import sample_code
from backend.engine.slots import SlotState

PARAMS = [
    SamplingParams(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.5),
    SamplingParams(temperature=0.7, top_p=0.6, repetition_penalty=1.2),
    SamplingParams(temperature=1.3, top_p=1.0, top_k=5, repetition_penalty=1.0),
    SamplingParams(temperature=0.3, top_p=0.8, repetition_penalty=1.0),
    SamplingParams(temperature=0.3, top_p=0.8, top_k=1, repetition_penalty=0.7),
    SamplingParams(temperature=5.0, top_p=0.999, repetition_penalty=1.3, repetition_window=2),
    SamplingParams(temperature=1.0, top_p=0.9, repetition_penalty=1.3, repetition_window=0),
]
FIRST_DRAW = 100


def both(logits: Tensor, params: SamplingParams, codes: list[int]) -> tuple[int, int]:
    """The code of ``draw_code`` and that of ``sample_code``."""
    state = SlotState(1, 2, torch.device("cpu"))
    state.begin(0, torch.zeros(3, dtype=torch.int64), params)
    state.steps[0] = 4
    if codes:
        state.recent[0, 1, -len(codes) :] = torch.tensor(codes)
    slots = HostSlots(state)
    noise = exponential_noise(state.seeds[:1], state.steps[:1], FIRST_DRAW + len(logits))[0]
    recent = state.recent_of(torch.tensor([0]))[0, 1]
    expected = sample_code(logits, noise[FIRST_DRAW:], params, recent)
    ours = draw_code(logits.numpy().copy(), slots.sampling(0), slots.recent[0, 1], FIRST_DRAW)
    return ours, int(expected)


@pytest.mark.parametrize("params", PARAMS)
def test_the_codes_are_those_of_tensors(params: SamplingParams):
    generator = torch.Generator().manual_seed(1)
    drawn: set[int] = set()
    for trial in range(150):
        logits = torch.randn(50, generator=generator) * (1 + trial % 4)
        codes = torch.randint(50, (trial % 6,), generator=generator).tolist()
        seeded = replace(params, seed=trial)
        ours, expected = both(logits, seeded, codes)
        assert ours == expected
        drawn.add(ours)
    assert len(drawn) > 20


@pytest.mark.parametrize("params", PARAMS)
def test_equal_logits_at_the_cut_are_told_apart_in_the_same_way(params: SamplingParams):
    for trial in range(40):
        logits = torch.randint(4, (12,), generator=torch.Generator().manual_seed(trial)).float()
        ours, expected = both(logits, params, [3, 3, 7])
        assert ours == expected


def test_a_code_that_cannot_come_does_not_come():
    logits = torch.tensor([0.5, float("-inf"), 0.2, float("-inf")])
    for seed in range(50):
        for top_p in (0.9, 1.0):
            params = SamplingParams(temperature=2.0, top_p=top_p, seed=seed)
            ours, expected = both(logits, params, [])
            assert ours == expected
            assert ours in (0, 2)


def test_logits_that_are_no_numbers_give_a_code_and_no_crash():
    for params in PARAMS:
        state = SlotState(1, 2, torch.device("cpu"))
        state.begin(0, torch.zeros(3, dtype=torch.int64), params)
        slots = HostSlots(state)
        broken = np.full(9, np.nan, np.float32)
        assert 0 <= draw_code(broken, slots.sampling(0), slots.recent[0, 1], 0) < 9
