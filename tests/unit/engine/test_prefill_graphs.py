"""Stretches of fixed sizes fill a slot as the plain prefill does (their graphs: tests/gpu)."""

from __future__ import annotations

import pytest
import torch

from backend.engine.kv_store import KVStore
from backend.engine.prefill import prefill_rows
from backend.engine.prefill_graphs import PrefillGraphs
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR

CONFIG = DualARConfig.from_dict(
    {
        "vocab_size": 300, "n_layer": 2, "n_head": 4, "n_local_heads": 2, "head_dim": 16, "dim": 32,
        "intermediate_size": 48, "codebook_size": 64, "num_codebooks": 4, "max_seq_len": 1024,
        "attention_qk_norm": True, "scale_codebook_embeddings": True,
    }
)  # fmt: skip
SLOT = 1


@pytest.fixture(scope="module")
def model() -> DualAR:
    network = DualAR(CONFIG)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            drawn = torch.empty(weight.shape).normal_(0, 0.2, generator=noise)
            weight.copy_(1 + drawn if "norm" in name else drawn)
    network.bind_tokens(100, 50, 200)
    return network


def new_store(max_positions: int = 1024) -> KVStore:
    return KVStore(2, 2, 2, max_positions, 16, torch.device("cpu"), torch.float32)


def prompt(length: int) -> torch.Tensor:
    rows = torch.zeros(5, length, dtype=torch.int64)
    rows[0] = torch.randint(0, 100, (length,), generator=torch.Generator().manual_seed(length))
    return rows


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[5], [64], [65, 3], [300, 1, 40], [700], [0, 7]])
def test_a_slot_is_filled_as_by_the_plain_prefill(model: DualAR, cuts: list[int]):
    plain, stretched = new_store(), new_store()
    graphs = PrefillGraphs(model, stretched, room=None)
    for cut in cuts:
        prefill_rows(model, prompt(cut), plain.view(SLOT))
        graphs.run(prompt(cut), stretched.view(SLOT))
    length = sum(cuts)
    assert stretched.length(SLOT) == plain.length(SLOT) == length
    expected = plain.slot_data(SLOT, 0, length)
    error = (stretched.slot_data(SLOT, 0, length) - expected).norm() / expected.norm()
    assert error < 1e-5
    assert not stretched.slot_data(1 - SLOT).any()


@torch.inference_mode()
def test_a_stretch_at_the_end_of_the_room_writes_nothing_beyond_it(model: DualAR):
    plain, stretched = new_store(100), new_store(100)
    graphs = PrefillGraphs(model, stretched, room=None)
    for rows in (prompt(60), prompt(39)):
        prefill_rows(model, rows, plain.view(SLOT))
        graphs.run(rows, stretched.view(SLOT))
    expected = plain.slot_data(SLOT, 0, 99)
    assert torch.allclose(stretched.slot_data(SLOT, 0, 99), expected, atol=1e-4)
