"""The decode step: a row in a batch is the row alone, and both ways to attend agree."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.core.types import SamplingParams
from backend.engine.attention import AttentionKind, MaskedAttention, RowAttention
from backend.engine.compute import choose_compute
from backend.engine.decode_step import FrameDecoder
from backend.engine.prefill import prefill_prompt
from backend.models.dual_ar import DualAR
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.decoding import new_decoder, step_rows

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
TEXTS = [
    "Hi.",
    "The quick brown fox jumps over the lazy dog.",
    "We walked until the sun went down.",
]
MIXED = [
    SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=11),
    GREEDY,
    SamplingParams(temperature=1.0, top_p=1.0, top_k=7, repetition_penalty=1.0, seed=12),
]


pytestmark = pytest.mark.usefixtures("one_thread_and_no_gradients")


def begin(model: DualAR, decoder: FrameDecoder, slot: int, which: int, params: SamplingParams):
    rows = build_prompt(Tokenizer.from_directory(POCKET), TEXTS[which], [], 8)
    decoder.store.set_length(slot, 0)
    decoder.state.begin(slot, prefill_prompt(model, rows, decoder.store.view(slot)), params)


@pytest.fixture(scope="module")
def sizes(model: DualAR) -> tuple[int, ...]:
    """Batch sizes that are safe for plain layers on this machine."""
    return choose_compute(model, torch.device("cpu"), is_fast=False).batch_sizes


def together(decoder: FrameDecoder, slots: list[int], sizes: tuple[int, ...]) -> Tensor:
    """One step of ``slots`` in the fewest batches that are safe: codes ``[n, K]``."""
    parts = [slots[start : start + sizes[-1]] for start in range(0, len(slots), sizes[-1])]
    fitting = [next(size for size in sizes if size >= len(part)) for part in parts]
    pairs = zip(parts, fitting, strict=True)
    return torch.cat([step_rows(decoder, part, size) for part, size in pairs])


def alone(model: DualAR, which: int, num_frames: int, sizes: tuple[int, ...]) -> Tensor:
    decoder = new_decoder(model, 1, max_positions=256)
    begin(model, decoder, 0, which, MIXED[which])
    return torch.cat([together(decoder, [0], sizes) for _ in range(num_frames)])


def test_a_row_is_the_same_whoever_joins_and_leaves(model: DualAR, sizes: tuple[int, ...]):
    decoder = new_decoder(model, 3, max_positions=256)
    frames: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    # the slots of each step; slot n speaks text n
    steps = [[0]] * 2 + [[1, 0]] * 3 + [[2, 1, 0]] * 3 + [[1, 2]] * 4
    started: set[int] = set()
    for slots in steps:
        for slot in set(slots) - started:
            begin(model, decoder, slot, slot, MIXED[slot])
            started.add(slot)
        for slot, codes in zip(slots, together(decoder, slots, sizes), strict=True):
            frames[slot].append(codes)
    for which, drawn in frames.items():
        assert torch.equal(torch.stack(drawn), alone(model, which, len(drawn), sizes))


def test_keys_and_values_in_company_have_the_bits_they_have_alone(
    model: DualAR, sizes: tuple[int, ...]
):
    stores = []
    for company in ([0], [0, 1, 2]):
        decoder = new_decoder(model, 3, max_positions=128)
        for slot in company:
            begin(model, decoder, slot, slot, GREEDY)
        for _ in range(4):
            together(decoder, company, sizes)
        stores.append(decoder.store.slot_data(0))
    assert stores[0].any()
    assert torch.equal(*stores)


def forced_hidden(model: DualAR, attention: AttentionKind) -> tuple[Tensor, Tensor]:
    """Codes of 40 greedy frames of three texts, and what lies in the store behind them."""
    decoder = new_decoder(model, 3, attention=attention, max_positions=128)
    for slot in range(3):
        begin(model, decoder, slot, slot, GREEDY)
    codes = torch.stack([step_rows(decoder, [0, 1, 2], 4) for _ in range(40)])
    return codes, torch.stack([decoder.store.slot_data(slot) for slot in range(3)])


def test_masked_attention_gives_what_row_after_row_gives(model: DualAR):
    codes, kv = forced_hidden(model, RowAttention)
    masked_codes, masked_kv = forced_hidden(model, MaskedAttention)
    assert torch.equal(masked_codes, codes)
    assert (masked_kv - kv).norm() <= 1e-5 * kv.norm()


def test_an_end_leaves_the_slot_as_it_was_but_for_its_noise(model: DualAR):
    decoder = new_decoder(model, 1, max_positions=512)
    begin(model, decoder, 0, 0, GREEDY)
    state, lengths = decoder.state, decoder.store.lengths
    is_over, before = False, state.pending
    while not is_over:
        before = (state.pending[0].clone(), state.recent[0].clone(), lengths[0].clone())
        steps = int(state.steps[0])
        [codes] = step_rows(decoder, [0], 4)
        is_over = bool(codes[0] == model.num_semantic)
        assert state.steps[0] == steps + 1
    after = (state.pending[0], state.recent[0], lengths[0])
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert lengths[0] == decoder.store.length(0)


def test_the_window_bounds_what_counts_as_recent(model: DualAR):
    decoder = new_decoder(model, 2, max_positions=128)
    begin(model, decoder, 0, 1, SamplingParams(repetition_penalty=1.2, repetition_window=3))
    frames = torch.cat([step_rows(decoder, [0], 4) for _ in range(5)])
    recent = decoder.state.recent_of(torch.tensor([0, 1]))
    assert torch.equal(recent[0, :, -3:], frames[-3:].T)
    assert (recent[0, :, :-3] == -1).all()
    assert (recent[1] == -1).all()


def test_the_scratch_slot_never_fills_up(model: DualAR):
    decoder = new_decoder(model, 1, attention=MaskedAttention, max_positions=128)
    begin(model, decoder, 0, 1, GREEDY)
    for _ in range(5):
        step_rows(decoder, [0], 4)
    assert decoder.store.lengths[1] == 0
    assert not decoder.store.slot_data(1, 1).any()
