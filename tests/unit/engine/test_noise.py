"""Noise by counting: known values, its distribution, and what it may depend on."""

import math

import numpy as np
import pytest
import torch

from backend.engine.noise import (
    MAX_DRAWS,
    exponential_noise,
    exponential_noise_on_host,
    random_words,
    seed_word,
)

MASK = (1 << 64) - 1


def mixed(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def expected_word(seed: int, step: int, index: int) -> int:
    """SplitMix64 with unsigned integers of Python's."""
    golden = 0x9E3779B97F4A7C15
    start = mixed((seed * 0xBF58476D1CE4E5B9 + golden) & MASK)
    return mixed((start + (step * MAX_DRAWS + index + 1) * golden) & MASK)


def integers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_the_mixing_is_splitmix64():
    # the first two outputs of SplitMix64 from state 0, as published
    golden = 0x9E3779B97F4A7C15
    assert mixed(golden) == 0xE220A8397B1DCDAF
    assert mixed(2 * golden & MASK) == 0x6E789E6AA1B965F4


def test_words_are_those_of_whole_number_arithmetic():
    seeds = [0, 1, -1, 2**63 - 1, -(2**63)]
    steps = [0, 1, 4095, 2**40, 7]
    words = random_words(integers(*seeds), integers(*steps), 5)
    expected = [
        [expected_word(seed, step, index) for index in range(5)]
        for seed, step in zip(seeds, steps, strict=True)
    ]
    assert [[word & MASK for word in row] for row in words.tolist()] == expected


def test_noise_is_the_logarithm_of_the_words_upper_bits():
    [[noise]] = exponential_noise(integers(5), integers(3), 1).tolist()
    uniform = ((expected_word(5, 3, 0) >> 41) + 0.5) / 2**23
    assert noise == pytest.approx(-math.log(uniform), rel=1e-6)


def test_a_row_does_not_depend_on_its_company():
    together = exponential_noise(integers(7, 8, 9), integers(0, 5, 2), 4097)
    alone = exponential_noise(integers(8), integers(5), 4097)
    assert torch.equal(together[1:2], alone)
    assert torch.equal(exponential_noise(integers(8), integers(5), 100), alone[:, :100])


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_the_host_makes_the_same_numbers_one_by_one(seed: int):
    for step in (0, 1, 4095, 2**40):
        noise = exponential_noise(integers(seed), integers(step), 600)[0].numpy()
        indices = np.array([599, 0, 77, 3])
        assert np.array_equal(exponential_noise_on_host(seed, step, indices), noise[indices])


def test_both_logarithms_round_to_the_same_number_everywhere():
    uniform = (np.arange(2**23) + 0.5) * 2.0**-23
    ours = -np.log(uniform).astype(np.float32)
    assert np.array_equal(ours, torch.from_numpy(uniform).log().neg().float().numpy())


def test_seeds_and_steps_share_no_numbers():
    seeds = torch.arange(20).repeat_interleave(20)
    words = random_words(seeds, torch.arange(20).repeat(20), 500)
    assert words.unique().numel() == words.numel()


def test_noise_is_exponential_and_independent():
    count = 400_000
    noise = exponential_noise(integers(1, 2), integers(0, 0), count).double()
    assert noise.min() > 0
    assert noise.isfinite().all()
    # five standard errors; mean, variance, and the share above ln 2 of Exp(1) are known
    assert noise.mean(1).sub(1).abs().max() < 5 / count**0.5
    assert noise.var(1).sub(1).abs().max() < 5 * (8 / count) ** 0.5
    assert (noise > math.log(2)).double().mean(1).sub(0.5).abs().max() < 2.5 / count**0.5
    first, second = noise - 1
    for product in (first * second, first[1:] * first[:-1]):
        assert product.mean().abs() < 5 / count**0.5


def test_a_seed_of_any_size_has_its_word():
    assert [seed_word(s) for s in (0, -1, 2**63, 2**64 + 3)] == [0, -1, -(2**63), 3]


def test_too_many_draws_are_refused():
    with pytest.raises(ValueError, match="exceed"):
        exponential_noise(integers(0), integers(0), MAX_DRAWS + 1)
