"""Which networks and machines the project's kernels are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.core.settings import read_settings
from backend.engine.card_kernels import kv_bits, scratch_positions, why_not_these_sizes
from backend.models.config import DualARConfig
from tests.parity.full_checkpoint import S1_MINI

CONFIG = DualARConfig.from_dict(S1_MINI)
CPU = torch.device("cpu")


@pytest.mark.parametrize("is_nf4", [False, True])
def test_s1_mini_runs_in_the_kernels(is_nf4: bool) -> None:
    assert why_not_these_sizes(CONFIG, is_nf4=is_nf4) is None


@pytest.mark.parametrize(
    ("changes", "is_nf4", "reason"),
    [
        ({"head_dim": 96}, False, "no power of two"),
        ({"n_head": 34, "n_local_heads": 2}, False, "too many"),
        ({"dim": 1000}, False, "no multiple of 16"),
        ({"intermediate_size": 3088}, True, "no multiple of 64"),
    ],
)
def test_other_sizes_are_told_why_not(changes: dict[str, int], is_nf4: bool, reason: str) -> None:
    found = why_not_these_sizes(replace(CONFIG, **changes), is_nf4=is_nf4)
    assert reason in str(found)


def test_a_cpu_keeps_whole_numbers_and_says_so() -> None:
    settings = read_settings(None, device="cpu", kv_quantization="int4")
    bits, notes = kv_bits(CONFIG, settings, CPU)
    assert bits == 16
    assert "since there is no card" in notes[0]
    assert kv_bits(CONFIG, read_settings(None, device="cpu"), CPU) == (16, ())
    assert scratch_positions(CONFIG, settings, CPU) > 1
