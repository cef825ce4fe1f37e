"""The resident kernels against the plain step, in bf16 on a Hopper card."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("needs a Hopper card", allow_module_level=True)

from backend.core.types import SamplingParams
from backend.engine.attention import MaskedAttention, StepPlan
from backend.engine.capture import GraphRoom
from backend.engine.card_step import CardStep, choose_card_step
from backend.engine.decode_step import FrameDecoder, FrameSizes
from backend.engine.kv_store import KVStore
from backend.engine.noise import exponential_noise
from backend.engine.resident_step import ResidentStep, why_not_resident
from backend.engine.sampling import sample_codes
from backend.engine.slots import SlotState
from backend.engine.step_ops import module_ops
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.quantization import linear_names, quantize_tensors, replace_linears

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
SIZES = FrameSizes(num_codebooks=10, num_semantic=4096, num_residual=1024, semantic_begin_id=200)
POSITIONS = 512
CONFIG = {  # S1-mini's sizes, but for the vocabulary and the numbers of layers
    "vocab_size": 4400, "n_layer": 3, "n_head": 16, "n_local_heads": 8, "head_dim": 128,
    "dim": 1024, "intermediate_size": 3072, "codebook_size": 4096, "num_codebooks": 10,
    "max_seq_len": 1024, "attention_qk_norm": True, "scale_codebook_embeddings": True,
    "n_fast_layer": 2, "fast_dim": 1024, "fast_n_head": 16, "fast_n_local_heads": 8,
    "fast_head_dim": 64, "fast_intermediate_size": 3072, "fast_attention_qk_norm": False,
}  # fmt: skip
TAKES = (
    SamplingParams(temperature=0.0, repetition_penalty=1.2, min_new_tokens=300),
    SamplingParams(temperature=0.8, top_p=0.7, repetition_penalty=1.1, seed=5, min_new_tokens=300),
    SamplingParams(temperature=1.0, top_k=5, top_p=1.0, seed=-3, min_new_tokens=300),
)


def make_model(dtype: torch.dtype, *, is_int8: bool = False) -> DualAR:
    """Random weights that bfloat16 holds exactly, the same for every ``dtype``."""
    model = DualAR(DualARConfig.from_dict(CONFIG))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            scale = 1.0 if "embed" in name else weight.shape[-1] ** -0.5
            drawn = torch.empty(weight.shape).normal_(0, scale, generator=noise)
            weight.copy_((1 + drawn if "norm" in name else drawn).to(torch.bfloat16))
    model.to(DEVICE, dtype)
    model.rebuild_rope(DEVICE)
    if is_int8:
        tensors = quantize_tensors(model.state_dict(), linear_names(model), "int8", DEVICE)
        with torch.device(DEVICE):
            replace_linears(model, "int8")
        model.load_state_dict(tensors)
    model.bind_tokens(SIZES.semantic_begin_id, SIZES.num_semantic, 4399)
    model.residual_size = SIZES.num_residual
    return model


class Room:
    """Slots with random keys and values in front of the first frame."""

    def __init__(self, model: DualAR, num_slots: int) -> None:
        self.model, config = model, model.config
        dtype = model.embeddings.weight.dtype
        self.store = KVStore(
            config.n_layer, num_slots, config.n_local_heads, POSITIONS, config.head_dim, DEVICE,
            dtype,
        )  # fmt: skip
        noise = torch.Generator(DEVICE).manual_seed(2)
        shape = self.store.data.shape
        self.store.data.copy_(torch.randn(shape, generator=noise, device=DEVICE).bfloat16())
        self.state = SlotState(num_slots, SIZES.num_codebooks, DEVICE)
        for slot in range(num_slots):
            row = torch.arange(11) * (slot + 3) % 900
            row[0] = 200 + slot
            self.state.begin(slot, row, TAKES[slot % len(TAKES)])
            self.store.set_length(slot, 3 + 37 * slot % 450)
        self.decoder = FrameDecoder(
            module_ops(model), SIZES, self.store, self.state, MaskedAttention
        )

    def card_step(self, *, is_resident: bool = True, only_size: int | None = None) -> CardStep:
        return choose_card_step(
            self.decoder, self.model, room=GraphRoom(DEVICE), is_fused=True,
            is_resident=is_resident, only_size=only_size,
        )  # fmt: skip

    def frames(self, num_rows: int, num_frames: int) -> torch.Tensor:
        """Codes ``[frames, rows, K]`` of the first slots, in reverse order."""
        step = self.card_step()
        assert step.notes == ()
        size = 1 << (num_rows - 1).bit_length()
        ids = list(range(num_rows))[::-1] + [self.store.scratch_slot] * (size - num_rows)
        slots = torch.tensor(ids, device=DEVICE)
        plan = StepPlan(num_rows, POSITIONS)
        return torch.stack([step.run(slots, plan).clone() for _ in range(num_frames)])


def error(value: torch.Tensor, exact: torch.Tensor) -> float:
    return float((value.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("num_rows", "is_int8"), [(1, False), (2, False), (4, False), (8, False), (16, False),
                              (1, True), (16, True)],
)  # fmt: skip
@torch.inference_mode()
def test_both_kernels_are_as_near_to_float32_as_the_plain_step(num_rows: int, is_int8: bool):
    model = make_model(torch.bfloat16, is_int8=is_int8)
    exact = Room(make_model(torch.float32, is_int8=is_int8), num_rows)
    plain, room = Room(model, num_rows), Room(model, num_rows)
    assert why_not_resident(model, SIZES, room.store) is None
    slots = torch.arange(num_rows, device=DEVICE)
    step = ResidentStep(model, SIZES, room.store, room.state, slots, has_pdl=True)
    step._embed()
    step._slow_pass()
    plan = StepPlan(num_rows, POSITIONS)
    wanted, usual = (
        each.decoder._slow(slots, each.store.lengths[slots], plan) for each in (exact, plain)
    )
    assert error(step._fast_x[0::2], wanted) <= 1.2 * error(usual, wanted) + 1e-3
    wanted, usual = (
        each.decoder.ops.semantic_logits(hidden)
        for each, hidden in ((exact, wanted), (plain, usual))
    )
    assert error(step._logits, wanted) <= 1.2 * error(usual, wanted) + 1e-3
    assert error(room.store.data, exact.store.data) <= (
        1.2 * error(plain.store.data, exact.store.data) + 1e-3
    )
    _check_fast_passes(step, exact, plain, slots)


def _check_fast_passes(step: ResidentStep, exact: Room, plain: Room, slots: torch.Tensor) -> None:
    """Every code is the one that is drawn from float32 logits behind the same codes."""
    num_rows, state = len(slots), exact.state
    noise = torch.Generator(DEVICE).manual_seed(3)
    x = torch.randn(num_rows, 2, 1024, generator=noise, device=DEVICE).bfloat16()
    step._fast_x.copy_(x.flatten(0, 1))
    step._fast_passes()
    numbers = exponential_noise(state.seeds[slots], state.steps[slots], sum(SIZES.draws))
    rows = state.sampling.rows(slots, has_cut=True, has_penalty=True)
    inputs, start, num_equal = x.float(), 0, 0
    room = exact.decoder._new_fast_room(inputs[:, 0])
    for codebook, draws in enumerate(numbers.split(SIZES.draws, dim=1)):
        if codebook == 0:
            continue
        logits = exact.decoder._fast(inputs, start, room)
        recent = state.recent_of(slots)[:, codebook]
        drawn = step.codes[:, codebook]
        num_equal += int((sample_codes(logits, draws, rows, recent) == drawn).sum())
        inputs = exact.model.fast_embeddings.weight[drawn][:, None]
        start = codebook + 1
    assert num_equal >= 0.9 * 9 * num_rows  # bfloat16 turns near ties


@pytest.mark.parametrize("num_rows", [1, 3, 12])
def test_a_step_repeats_itself_bit_by_bit(num_rows: int):
    model = make_model(torch.bfloat16)
    first = Room(model, num_rows).frames(num_rows, 30)
    assert torch.equal(Room(model, num_rows).frames(num_rows, 30), first)
    assert len(first.flatten().unique()) > 100


@pytest.mark.parametrize(("size", "is_int8"), [(4, False), (8, True), (16, False)])
@torch.inference_mode()
def test_a_row_of_one_batch_size_does_not_depend_on_its_company(size: int, is_int8: bool):
    model = make_model(torch.bfloat16, is_int8=is_int8)
    alone, among = Room(model, size), Room(model, size)
    step, other_step = alone.card_step(only_size=size), among.card_step(only_size=size)
    assert step.batch_sizes == (size,)
    filled = [0] + [alone.store.scratch_slot] * (size - 1)
    everyone = [*range(1, size), 0]
    for _ in range(60):
        lone = step.run(torch.tensor(filled, device=DEVICE), StepPlan(1, POSITIONS))[0].clone()
        codes = other_step.run(torch.tensor(everyone, device=DEVICE), StepPlan(size, POSITIONS))
        assert torch.equal(codes[-1], lone)


def test_a_full_slot_and_an_empty_one_share_a_batch():
    model = make_model(torch.bfloat16)
    room = Room(model, 2)
    room.store.set_length(0, POSITIONS - 3)
    room.store.set_length(1, 0)
    room.frames(2, 3)
    assert room.store.lengths.tolist() == [POSITIONS, 3, 0]


def test_it_can_be_switched_off_and_tells_why_it_cannot_run():
    model = make_model(torch.bfloat16)
    room = Room(model, 1)
    assert room.card_step(is_resident=False).notes == ()
    exact = Room(make_model(torch.float32), 1)
    assert "bf16" in exact.card_step().notes[0]
