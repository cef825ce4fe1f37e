"""The sampler: order of operations, edges, its distribution, and a plain way to the same codes."""

import pytest
import torch
from torch import Tensor

from backend.core.types import SamplingParams
from backend.engine.noise import exponential_noise
from backend.engine.sampling import (
    RowSampling,
    has_cut,
    has_penalty,
    keep_likeliest,
    penalize_repetition,
    sample_code,
    sample_codes,
)

NONE = torch.empty(0, dtype=torch.int64)
OFF = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
MIXED = [
    OFF,
    SamplingParams(temperature=0.0, repetition_penalty=1.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.5),
    SamplingParams(temperature=0.7, top_p=0.6, repetition_penalty=1.2),
    SamplingParams(temperature=1.3, top_p=1.0, top_k=5, repetition_penalty=1.0),
    SamplingParams(temperature=0.3, top_p=0.8, top_k=1, repetition_penalty=0.7),
]


def noise_of(num: int, rows: int = 1, step: int = 0) -> Tensor:
    return exponential_noise(torch.arange(rows), torch.full((rows,), step), num)


def rows_of(params: list[SamplingParams]) -> RowSampling:
    rows = RowSampling.empty(len(params), torch.device("cpu"))
    for row, each in enumerate(params):
        rows.set_row(row, each)
    return rows


def plain_code(logits: Tensor, noise: Tensor, params: SamplingParams, recent: list[int]) -> int:
    """One row, one step after another, as the description reads."""
    logits = logits.clone()
    for code in set(recent):
        factor = params.repetition_penalty
        logits[code] = logits[code] * factor if logits[code] < 0 else logits[code] / factor
    if params.temperature == 0.0:
        return int(logits.argmax())
    order = logits.argsort(descending=True)
    running = logits[order].softmax(-1).cumsum(-1)
    for rank, code in enumerate(order.tolist()):
        beyond_p = params.top_p < 1.0 and float(running[rank]) > params.top_p
        beyond_k = params.top_k > 0 and rank >= params.top_k
        if rank and (beyond_p or beyond_k):
            logits[code] = float("-inf")
    return int(((logits / params.temperature).softmax(-1) / noise).argmax())


def kept(logits: Tensor, top_p: float, top_k: int) -> list[int]:
    cut = keep_likeliest(logits[None], torch.tensor([top_p]), torch.tensor([top_k]))
    return cut[0].isfinite().nonzero()[:, 0].tolist()


def test_top_p_removes_the_code_that_crosses_the_threshold():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert kept(logits, 0.79, 99) == [1]
    assert kept(logits, 0.81, 99) == [1, 2]


def test_the_likeliest_code_stays_even_when_it_crosses_the_threshold():
    logits = torch.tensor([0.05, 0.9, 0.05]).log()
    assert kept(logits, 0.1, 99) == [1]


def test_top_k_keeps_that_many_codes():
    logits = torch.arange(10.0)
    assert kept(logits, 2.0, 3) == [7, 8, 9]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = torch.tensor([[2.0, -2.0, 4.0], [2.0, -2.0, 4.0]])
    recent = torch.tensor([[0, 0, 1], [-1, -1, 2]])
    penalized = penalize_repetition(logits, recent, torch.tensor([2.0, 4.0]))
    assert penalized.tolist() == [[1.0, -4.0, 4.0], [2.0, -2.0, 1.0]]


def test_a_penalized_code_loses_to_its_runner_up():
    logits = torch.tensor([1.0, 1.1])
    params = SamplingParams(temperature=0.0, repetition_penalty=1.5)
    noise = torch.ones(2)
    assert int(sample_code(logits, noise, params, NONE)) == 1
    assert int(sample_code(logits, noise, params, torch.tensor([1]))) == 0


def test_zero_temperature_ignores_the_noise():
    logits = torch.tensor([0.0, 3.0, 1.0])
    params = SamplingParams(temperature=0.0)
    noise = torch.tensor([1e-9, 1e9, 1e-9])
    assert int(sample_code(logits, noise, params, NONE)) == 1


def test_zero_temperature_tells_logits_apart_whose_probabilities_are_equal():
    logits = torch.tensor([50.0, 1.0, 50.000004])
    params = SamplingParams(temperature=0.0, repetition_penalty=1.0)
    assert logits[2] > logits[0]
    assert int(sample_code(logits, torch.ones(3), params, NONE)) == 2


def test_a_batch_of_many_kinds_draws_what_the_description_says():
    generator = torch.Generator().manual_seed(3)
    rows = rows_of(MIXED)
    drawn = set[int]()
    for step in range(60):
        logits = torch.randn(len(MIXED), 40, generator=generator) * 3
        recent = torch.randint(-1, 40, (len(MIXED), 16), generator=generator)
        noise = noise_of(40, len(MIXED), step)
        codes = sample_codes(logits, noise, rows, recent).tolist()
        expected = [
            plain_code(logits[row], noise[row], params, [c for c in recent[row].tolist() if c >= 0])
            for row, params in enumerate(MIXED)
        ]
        assert codes == expected
        drawn.update(codes)
    assert len(drawn) > 20


def test_what_no_row_needs_may_be_left_out():
    params = [OFF, SamplingParams(temperature=0.0, top_p=0.5, repetition_penalty=1.0)]
    assert not any(has_cut(p) or has_penalty(p) for p in params)
    logits, noise = torch.randn(2, 40) * 3, noise_of(40, 2)
    recent = torch.randint(-1, 40, (2, 16))
    rows = rows_of(params)
    full = sample_codes(logits, noise, rows, recent)
    rows.has_cut = rows.has_penalty = False
    assert torch.equal(sample_codes(logits, noise, rows, recent), full)


def test_draws_follow_the_tempered_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    params = SamplingParams(temperature=0.5, top_p=1.0, repetition_penalty=1.0)
    rows = rows_of([params] * 4000)
    logits = probabilities.log().expand(4000, 3)
    codes = sample_codes(logits, noise_of(3, 4000), rows, torch.full((4000, 1), -1))
    expected = probabilities.square() / probabilities.square().sum()
    # three standard deviations of a binomial share over 4,000 draws
    shares = codes.bincount(minlength=3) / 4000
    assert torch.allclose(shares, expected, atol=3 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_every_precision_are_sampled_in_fp32(dtype: torch.dtype):
    logits = torch.tensor([0.0, 8.0, 1.0], dtype=dtype)
    assert int(sample_code(logits, noise_of(3)[0], OFF, NONE)) == 1
