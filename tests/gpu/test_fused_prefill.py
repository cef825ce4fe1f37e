"""Prompts in fused kernels against the plain prefill; keys and values in 8 and 4 bits.

With ``TRITON_INTERPRET=1`` the same runs on a CPU, without graphs.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from backend.core.types import SamplingParams
from backend.engine.attention import MaskedAttention, StepPlan
from backend.engine.capture import GraphRoom
from backend.engine.decode_step import FrameDecoder, FrameSizes
from backend.engine.fused_prefill import FusedPrefill
from backend.engine.fused_step import FusedStep
from backend.engine.kv_store import KVStore
from backend.engine.prefill import prefill_rows
from backend.engine.prompts import Stretch
from backend.engine.slots import SlotState
from backend.engine.step_ops import module_ops
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.quantization import linear_names, quantize_tensors, replace_linears

pytestmark = pytest.mark.gpu

IS_EMULATED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu") if IS_EMULATED else torch.device("cuda", 0)
SIZES = FrameSizes(num_codebooks=4, num_semantic=50, num_residual=40, semantic_begin_id=100)
GREEDY = SamplingParams(temperature=0.0, min_new_tokens=50)
CONFIG = {
    "vocab_size": 300, "n_layer": 3, "n_head": 4, "n_local_heads": 2, "head_dim": 64, "dim": 256,
    "intermediate_size": 384, "codebook_size": 64, "num_codebooks": 4, "max_seq_len": 1024,
    "attention_qk_norm": True, "scale_codebook_embeddings": True, "n_fast_layer": 2,
    "fast_dim": 128, "fast_n_head": 4, "fast_n_local_heads": 2, "fast_head_dim": 32,
    "fast_intermediate_size": 256, "fast_attention_qk_norm": False,
}  # fmt: skip
POSITIONS = 512


def new_model(scheme: str = "none") -> DualAR:
    model = DualAR(DualARConfig.from_dict(CONFIG)).to(DEVICE)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = torch.empty(weight.shape).normal_(0, 0.2, generator=noise)
            weight.copy_(1 + drawn if "norm" in name else drawn)
    if scheme != "none":
        tensors = quantize_tensors(model.state_dict(), linear_names(model), scheme, DEVICE)
        with DEVICE:
            replace_linears(model, scheme)
        model.load_state_dict(tensors)
    model.bind_tokens(SIZES.semantic_begin_id, SIZES.num_semantic, 200)
    model.residual_size = SIZES.num_residual
    return model


def new_store(bits: int = 16) -> KVStore:
    return KVStore(3, 3, 2, POSITIONS, 64, DEVICE, torch.float32, 1, bits)


def prompt(length: int, seed: int) -> Tensor:
    """Text, then audio, then text."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.zeros(5, length, dtype=torch.int64)
    rows[0] = torch.randint(0, 100, (length,), generator=random)
    audio = slice(length // 3, 2 * length // 3)
    count = len(range(length)[audio])
    codes = torch.randint(0, 40, (4, count), generator=random)
    rows[0, audio], rows[1:, audio] = 100 + codes[0], codes
    return rows


def fused(model: DualAR, store: KVStore) -> FusedPrefill:
    return FusedPrefill(model, store, None if IS_EMULATED else GraphRoom(DEVICE))


def filled(store: KVStore, slot: int) -> Tensor:
    """Keys and values ``[2, L, G, n, D]`` float32 of a slot, whatever they are stored in."""
    parts = store.view(slot).stretch(0, store.length(slot))
    if store.scales is None:
        return parts[0]
    codes, scales = parts
    if store.bits == 4:
        wide = codes.int()
        codes = torch.stack(((wide & 15) - 8, (wide >> 4) - 8), dim=-1).flatten(-2)
    return codes.float() * scales.float()[..., None]


def error(values: Tensor, exact: Tensor) -> float:
    return float((values - exact).norm() / exact.norm())


def plainly(model: DualAR, stretches: list[Tensor]) -> Tensor:
    store = new_store()
    for rows in stretches:
        prefill_rows(model, rows, store.view(0))
    return filled(store, 0)


@torch.inference_mode()
@pytest.mark.parametrize("scheme", ["none", "int8", "nf4"])
def test_a_slot_is_filled_as_by_the_plain_prefill(scheme: str):
    model, store = new_model(scheme), new_store()
    run = fused(model, store)
    stretches = [prompt(70, 0), prompt(5, 1), prompt(33, 2)]
    for rows in stretches:
        run.run_many([Stretch(rows, store.view(1))])
    assert store.length(1) == 108
    assert error(filled(store, 1), plainly(model, stretches)) < 1e-5
    assert not store.slot_data(0).any()
    assert not store.slot_data(1, 108).any()
    assert not store.slot_data(2, 0, 1).any()


@torch.inference_mode()
def test_a_prompt_in_company_has_the_bits_it_has_alone():
    model, alone, together = new_model(), new_store(), new_store()
    prompts = [prompt(90, 3), prompt(40, 4), prompt(7, 5)]
    run = fused(model, alone)
    for slot, rows in enumerate(prompts):
        run.run_many([Stretch(rows, alone.view(slot))])
    fused(model, together).run_many(
        [Stretch(rows, together.view(slot)) for slot, rows in enumerate(prompts)]
    )
    for slot in range(3):
        assert together.length(slot) == alone.length(slot)
        assert torch.equal(filled(together, slot), filled(alone, slot))


@torch.inference_mode()
@pytest.mark.parametrize(("bits", "bound"), [(8, 0.01), (4, 0.12)])
def test_keys_and_values_in_fewer_bits_are_near(bits: int, bound: float):
    model, store = new_model(), new_store(bits)
    rows = prompt(100, 6)
    fused(model, store).run_many([Stretch(rows, store.view(0))])
    exact = plainly(model, [rows])
    first_layer = error(filled(store, 0)[:, 0], exact[:, 0])
    assert 0 < first_layer < bound
    assert store.num_bytes < new_store().num_bytes * (bits + 1) / 32


@torch.inference_mode()
@pytest.mark.parametrize("bits", [8, 4])
def test_a_step_over_fewer_bits_reads_and_writes_what_the_store_holds(bits: int):
    """The plain step over the dequantized store gives the reference."""
    model, store = new_model(), new_store(bits)
    fused(model, store).run_many([Stretch(prompt(100, 7)[:, :-1], store.view(0))])
    plain = new_store()
    plain.slot_data(0, 0, 99).copy_(filled(store, 0))
    last = prompt(100, 7)[:, -1]
    stores, keys = (store, plain), []
    for each in stores:
        each.set_length(0, 99)
        state = SlotState(3, 4, DEVICE)
        state.begin(0, last, GREEDY)
        ids = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        if each is store:
            FusedStep(model, SIZES, each, state, ids, 256, has_pdl=False).run()
        else:
            decoder = FrameDecoder(module_ops(model), SIZES, each, state, MaskedAttention)
            decoder.step(ids, StepPlan(1, 256))
        each.set_length(0, 100)
        keys.append(filled(each, 0))
    assert torch.equal(keys[0][:, :, :, :99], keys[1][:, :, :, :99])
    new, exact = (each[:, -1, :, 99] for each in keys)
    assert error(new, exact) < (0.01 if bits == 8 else 0.12)
