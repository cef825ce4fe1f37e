"""The fused decode step against the plain one, alone, in company and in CUDA graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.core.types import SamplingParams
from backend.engine.attention import MaskedAttention, StepPlan
from backend.engine.capture import GraphRoom
from backend.engine.card_step import CardStep, choose_card_step
from backend.engine.decode_step import FrameDecoder, FrameSizes
from backend.engine.kv_store import KVStore
from backend.engine.prefill import prefill_prompt, prefill_rows
from backend.engine.prefill_graphs import PrefillGraphs
from backend.engine.slots import SlotState
from backend.engine.step_ops import module_ops
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.quantization import linear_names, quantize_tensors, replace_linears

pytestmark = pytest.mark.gpu

SIZES = FrameSizes(num_codebooks=4, num_semantic=50, num_residual=40, semantic_begin_id=100)
END_ID = 200
NUM_SLOTS, POSITIONS, BOUND = 5, 512, 512
NUM_FRAMES = 200
TAKES = (
    SamplingParams(temperature=0.0, min_new_tokens=NUM_FRAMES),
    SamplingParams(temperature=0.8, top_p=0.7, repetition_penalty=1.3, seed=5, min_new_tokens=300),
    SamplingParams(temperature=1.0, top_k=5, top_p=1.0, seed=-3, min_new_tokens=300),
)
CONFIG = {
    "vocab_size": 300, "n_layer": 3, "n_head": 4, "n_local_heads": 2, "head_dim": 64, "dim": 256,
    "intermediate_size": 384, "codebook_size": 64, "num_codebooks": 4, "max_seq_len": 1024,
    "attention_qk_norm": True, "scale_codebook_embeddings": True, "n_fast_layer": 2,
    "fast_dim": 128, "fast_n_head": 4, "fast_n_local_heads": 2, "fast_head_dim": 32,
    "fast_intermediate_size": 256, "fast_attention_qk_norm": False,
}  # fmt: skip


class Room:
    """A network with random weights and three sequences behind their prompts."""

    def __init__(self, dtype: torch.dtype, device: str = "cuda") -> None:
        self.model = DualAR(DualARConfig.from_dict(CONFIG)).to(device, dtype)
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in sorted(self.model.named_parameters()):
                drawn = torch.empty(weight.shape).normal_(0, 0.2, generator=noise)
                weight.copy_(1 + drawn if "norm" in name else drawn)
        self.model.bind_tokens(SIZES.semantic_begin_id, SIZES.num_semantic, END_ID)
        self.model.residual_size = SIZES.num_residual
        config = self.model.config
        self.store = KVStore(
            config.n_layer, NUM_SLOTS, config.n_local_heads, POSITIONS, config.head_dim,
            torch.device(device), dtype,
        )  # fmt: skip
        self.state = SlotState(NUM_SLOTS, SIZES.num_codebooks, torch.device(device))
        self.decoder = FrameDecoder(
            module_ops(self.model), SIZES, self.store, self.state, MaskedAttention
        )
        for slot, length in enumerate((9, 200, 64)):
            self._open(slot, length)

    @torch.inference_mode()
    def _open(self, slot: int, length: int) -> None:
        rows = torch.zeros(1 + SIZES.num_codebooks, length, dtype=torch.int64)
        rows[0] = torch.randint(0, 100, (length,), generator=torch.Generator().manual_seed(slot))
        self.store.set_length(slot, 0)
        last = prefill_prompt(self.model, rows, self.store.view(slot))
        self.state.begin(slot, last, TAKES[slot])

    def card_step(self, *, has_graphs: bool = True, is_fused: bool = True) -> CardStep:
        room = GraphRoom(self.store.lengths.device) if has_graphs else None
        return choose_card_step(
            self.decoder, self.model, room=room, is_fused=is_fused, is_resident=False
        )

    def frames(
        self, step: CardStep, slots: list[int], num_frames: int = NUM_FRAMES
    ) -> torch.Tensor:
        """Codes ``[frames, rows, K]``."""
        size = 1 << (len(slots) - 1).bit_length()
        filled = slots + [self.store.scratch_slot] * (size - len(slots))
        ids = torch.tensor(filled, device=self.store.lengths.device)
        plan = StepPlan(len(slots), BOUND)
        return torch.stack([step.run(ids, plan).clone() for _ in range(num_frames)])


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    room = Room(torch.float32)
    return room.frames(room.card_step(has_graphs=False, is_fused=False), [0, 1, 2])


@pytest.mark.parametrize("has_graphs", [False, True])
def test_the_fused_step_draws_what_the_plain_one_draws(plain: torch.Tensor, has_graphs: bool):
    room = Room(torch.float32)
    step = room.card_step(has_graphs=has_graphs)
    assert step.notes == ()
    assert torch.equal(room.frames(step, [0, 1, 2]), plain)


def test_how_many_positions_are_read_at_once_changes_nothing(
    plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.engine.fused_step.keys_at_once", lambda units: 32)
    room = Room(torch.float32)
    assert torch.equal(room.frames(room.card_step(), [0, 1, 2]), plain)


def test_a_plain_graph_draws_what_the_eager_step_draws(plain: torch.Tensor):
    room = Room(torch.float32)
    assert torch.equal(room.frames(room.card_step(is_fused=False), [0, 1, 2]), plain)


@pytest.mark.parametrize("slots", [[1], [0, 1], [2, 0]])
def test_a_row_draws_in_company_what_it_draws_alone(plain: torch.Tensor, slots: list[int]):
    room = Room(torch.float32)
    assert torch.equal(room.frames(room.card_step(), slots), plain[:, slots])


def test_a_row_that_joins_and_leaves_changes_nothing_for_the_others(plain: torch.Tensor):
    room = Room(torch.float32)
    step = room.card_step()
    first = room.frames(step, [0, 1], 20)
    second = room.frames(step, [1], 20)
    third = room.frames(step, [2, 1, 0], 20)
    assert torch.equal(first, plain[:20, [0, 1]])
    assert torch.equal(second[:, 0], plain[20:40, 1])
    assert torch.equal(third[:, 1], plain[40:60, 1])
    assert torch.equal(third[:, 2], plain[20:40, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_no_worse_than_the_plain_step(dtype: torch.dtype):
    exact = _first_hidden(Room(torch.float32))
    room = Room(dtype)
    plain_error = _error(_first_hidden(room), exact)
    for slots in ([1], [0, 1, 2]):
        fused = Room(dtype)
        step = fused.card_step(has_graphs=False)
        fused.frames(step, slots, 1)
        keys = fused.store.slot_data(1)[0, -1, :, 199].float()
        assert _error(keys, exact) <= 1.5 * plain_error + 1e-3


def _first_hidden(room: Room) -> torch.Tensor:
    """Keys of the last layer at the first new position of slot 1: all layers are behind them."""
    room.frames(room.card_step(has_graphs=False, is_fused=False), [1], 1)
    return room.store.slot_data(1)[0, -1, :, 199].float()


def _error(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values - exact).norm() / exact.norm())


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_quantized_weights_give_what_their_plain_layers_give(scheme: str):
    plain_room, fused_room = Room(torch.float32), Room(torch.float32)
    for room in (plain_room, fused_room):
        tensors = quantize_tensors(
            room.model.state_dict(), linear_names(room.model), scheme, "cuda"
        )
        with torch.device("cuda"):
            replace_linears(room.model, scheme)
        room.model.load_state_dict(tensors)
        room.decoder = replace(room.decoder, ops=module_ops(room.model))
    plain_step = plain_room.card_step(has_graphs=False, is_fused=False)
    expected = plain_room.frames(plain_step, [0, 1, 2], 50)
    assert torch.equal(fused_room.frames(fused_room.card_step(), [0, 1, 2], 50), expected)
    alone = fused_room.frames(fused_room.card_step(), [1], 20)
    assert torch.equal(alone, plain_room.frames(plain_step, [1], 20))


@torch.inference_mode()
def test_a_prompt_in_graphs_fills_a_slot_as_the_plain_prefill_does():
    plain, captured = Room(torch.float32), Room(torch.float32)
    graphs = PrefillGraphs(captured.model, captured.store, GraphRoom(captured.store.lengths.device))
    for length in (70, 5, 120):
        rows = torch.zeros(1 + SIZES.num_codebooks, length, dtype=torch.int64)
        rows[0] = torch.arange(length) % 100
        prefill_rows(plain.model, rows, plain.store.view(3))
        graphs.run(rows, captured.store.view(3))
    expected = plain.store.slot_data(3, 0, 195)
    assert _error(captured.store.slot_data(3, 0, 195), expected) < 1e-5
