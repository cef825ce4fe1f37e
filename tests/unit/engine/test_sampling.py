"""The sampler: order of operations, edges, and the distribution it draws from."""

import pytest
import torch

from backend.core.types import SamplingParams
from backend.engine.sampling import (
    draw_noise,
    keep_likeliest,
    penalize_repetition,
    sample_code,
)

NONE = torch.empty(0, dtype=torch.int64)
OFF = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kept(logits: torch.Tensor, top_p: float, top_k: int) -> list[int]:
    return keep_likeliest(logits, top_p, top_k).isfinite().nonzero()[:, 0].tolist()


def test_top_p_removes_the_code_that_crosses_the_threshold():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert kept(logits, 0.79, 0) == [1]
    assert kept(logits, 0.81, 0) == [1, 2]


def test_the_likeliest_code_stays_even_when_it_crosses_the_threshold():
    logits = torch.tensor([0.05, 0.9, 0.05]).log()
    assert kept(logits, 0.1, 0) == [1]


def test_top_k_keeps_that_many_codes():
    logits = torch.arange(10.0)
    assert kept(logits, 1.0, 3) == [7, 8, 9]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = torch.tensor([2.0, -2.0, 4.0])
    recent = torch.tensor([0, 0, 1])
    assert penalize_repetition(logits, recent, 2.0).tolist() == [1.0, -4.0, 4.0]


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


def test_draws_follow_the_tempered_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    params = SamplingParams(temperature=0.5, top_p=1.0, repetition_penalty=1.0)
    source = generator()
    counts = torch.zeros(3)
    for _ in range(4000):
        noise = draw_noise(3, source)
        counts[sample_code(probabilities.log(), noise, params, NONE)] += 1
    expected = probabilities.square() / probabilities.square().sum()
    # three standard deviations of a binomial share over 4,000 draws
    assert torch.allclose(counts / 4000, expected, atol=3 * (0.25 / 4000) ** 0.5)


def test_the_same_seed_draws_the_same_noise_and_another_seed_does_not():
    assert torch.equal(draw_noise(64, generator(7)), draw_noise(64, generator(7)))
    assert not torch.equal(draw_noise(64, generator(7)), draw_noise(64, generator(8)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_every_precision_are_sampled_in_fp32(dtype: torch.dtype):
    logits = torch.tensor([0.0, 8.0, 1.0], dtype=dtype)
    assert int(sample_code(logits, draw_noise(3, generator()), OFF, NONE)) == 1
