"""The packed decode step: it draws what the plain one draws, alone and in company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from backend.core.settings import Settings
from backend.core.types import SamplingParams
from backend.engine import compute as compute_module
from backend.engine import cpu_linear
from backend.engine.compute import choose_compute
from backend.engine.cpu_network import PackedNetwork
from backend.engine.cpu_step import PackedFrameDecoder
from backend.engine.decode_step import FrameDecoder
from backend.engine.prefill import prefill_prompt
from backend.engine.steps import choose_steps
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.decoding import new_decoder, step_rows

if TYPE_CHECKING:
    from torch import Tensor

    from tests.decoding import Decoder

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
TEXTS = [
    "Hi.",
    "The quick brown fox jumps over the lazy dog.",
    "We walked until the sun went down.",
]
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
MIXED = [
    SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=11),
    GREEDY,
    SamplingParams(temperature=1.0, top_p=1.0, top_k=7, repetition_penalty=1.0, seed=12),
]
TINY = DualARConfig(
    dim=48, n_layer=2, n_head=6, vocab_size=90, intermediate_size=80, codebook_size=40,
    num_codebooks=3, n_local_heads=2, head_dim=16, n_fast_layer=3, fast_dim=48, fast_n_head=4,
    fast_n_local_heads=2, fast_head_dim=16, fast_intermediate_size=56,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread_and_no_gradients")


@pytest.fixture(scope="module")
def network(model: DualAR) -> PackedNetwork:
    return PackedNetwork.of(model)


def packed(network: PackedNetwork, like: FrameDecoder) -> PackedFrameDecoder:
    """A packed decoder over the store and the slots of a plain one."""
    return PackedFrameDecoder(network, like.sizes, like.store, like.state)


def begin(model: DualAR, decoder: Decoder, slot: int, params: SamplingParams, text: str = TEXTS[1]):
    rows = build_prompt(Tokenizer.from_directory(POCKET), text, [], 8)
    decoder.store.set_length(slot, 0)
    decoder.state.begin(slot, prefill_prompt(model, rows, decoder.store.view(slot)), params)


def kv_of(decoder: Decoder, num_slots: int) -> Tensor:
    return torch.stack([decoder.store.slot_data(slot) for slot in range(num_slots)])


def relative_error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).norm() / expected.norm())


def test_two_hundred_frames_are_those_of_the_plain_step(model: DualAR, network: PackedNetwork):
    plain = new_decoder(model, 3, max_positions=256)
    fast = packed(network, new_decoder(model, 3, max_positions=256))
    for decoder in (plain, fast):
        for slot, params in enumerate(MIXED):
            endless = replace(params, min_new_tokens=200)
            begin(model, decoder, slot, endless, TEXTS[slot])
    for _ in range(200):
        assert torch.equal(step_rows(fast, [0, 1, 2], 3), step_rows(plain, [0, 1, 2], 4))
    assert relative_error(kv_of(fast, 3), kv_of(plain, 3)) <= 1e-5
    for name in ("pending", "recent", "steps"):
        assert torch.equal(getattr(fast.state, name)[:3], getattr(plain.state, name)[:3])
    assert torch.equal(fast.store.lengths, plain.store.lengths)


@pytest.mark.parametrize("safe", [None, (3, 4, 8), (1,)])
def test_a_row_has_its_bits_in_any_company(
    model: DualAR, safe: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
):
    if safe is not None:  # a machine where few sizes, and not that of a lone row, are safe
        monkeypatch.setattr(compute_module, "stable_batch_sizes", lambda *_, **__: safe)
    compute = choose_compute(model, torch.device("cpu"), is_fast=True)
    sizes, network = compute.batch_sizes, compute.packed
    assert network is not None
    assert sizes[0] == 1  # a lone sequence is never filled up
    assert safe is None or network.semantic_head.is_row_by_row
    together = packed(network, new_decoder(model, 3, max_positions=128))
    frames: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    started: set[int] = set()
    for slots in [[0], [0], [1, 0], [1, 0], [2, 1, 0], [2, 1, 0], [2], [1, 2], [0, 2]]:
        for slot in set(slots) - started:
            begin(model, together, slot, MIXED[slot], TEXTS[slot])
            started.add(slot)
        for part in (slots[at : at + sizes[-1]] for at in range(0, len(slots), sizes[-1])):
            # the largest size: every other row of it only fills the batch up
            for slot, codes in zip(part, step_rows(together, part, sizes[-1]), strict=True):
                frames[slot].append(codes)
    for slot, drawn in frames.items():
        alone = packed(network, new_decoder(model, 3, max_positions=128))
        begin(model, alone, slot, MIXED[slot], TEXTS[slot])
        codes = torch.cat([step_rows(alone, [slot], sizes[0]) for _ in drawn])
        assert torch.equal(torch.stack(drawn), codes)
        assert torch.equal(together.store.slot_data(slot), alone.store.slot_data(slot))


def test_an_end_leaves_the_slot_as_it_was_but_for_its_noise(model: DualAR, network: PackedNetwork):
    decoder = packed(network, new_decoder(model, 1, max_positions=512))
    begin(model, decoder, 0, SamplingParams(temperature=0.0, repetition_penalty=1.1), "Hi.")
    state, is_over, before = decoder.state, False, None
    while not is_over:
        before = (state.pending[0].clone(), state.recent[0].clone(), decoder.store.length(0))
        [codes] = step_rows(decoder, [0], 1)
        is_over = bool(codes[0] == model.num_semantic)
    assert before is not None
    assert torch.equal(before[0], state.pending[0])
    assert torch.equal(before[1], state.recent[0])
    assert before[2] == decoder.store.length(0) == decoder.store.lengths[0]
    assert before[2] > 10
    assert decoder.store.lengths[1] == 0


def test_no_end_comes_before_the_least_number_of_frames(model: DualAR, network: PackedNetwork):
    decoder = packed(network, new_decoder(model, 1, max_positions=512))
    begin(model, decoder, 0, SamplingParams(temperature=0.0, min_new_tokens=150), "Hi.")
    codes = torch.cat([step_rows(decoder, [0], 1) for _ in range(150)])
    assert (codes[:, 0] < model.num_semantic).all()


def tiny(**changes: object) -> DualAR:
    """A small network of another form, with weights that float16 holds."""
    model = DualAR(replace(TINY, **changes))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(5)
    for value in model.state_dict().values():
        is_norm = value.dim() == 1
        value.normal_(float(is_norm), 0.2, generator=generator)
        value.copy_(value.half())
    model.bind_tokens(30, 25, 80)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_qk_norm": True, "fast_attention_qk_norm": True, "norm_fastlayer_input": True},
        {"attention_qkv_bias": True, "attention_o_bias": True, "fast_attention_qkv_bias": True},
        {"fast_dim": 32, "scale_codebook_embeddings": True, "n_fast_layer": 1},
        {"tie_word_embeddings": False, "n_local_heads": 6, "fast_n_local_heads": 1},
    ],
)
def test_every_form_of_the_network_is_understood(changes: dict[str, object]):
    model = tiny(**changes)
    plain = new_decoder(model, 2, max_positions=40)
    fast = packed(PackedNetwork.of(model), new_decoder(model, 2, max_positions=40))
    rows = torch.cat((torch.arange(2, 8)[None], torch.zeros(3, 6, dtype=torch.int64)))
    for decoder in (plain, fast):
        for slot in (0, 1):
            last = prefill_prompt(model, rows[:, slot:], decoder.store.view(slot))
            params = SamplingParams(temperature=1.0, top_p=0.95, seed=slot, min_new_tokens=30)
            decoder.state.begin(slot, last, params)
    for _ in range(30):
        assert torch.equal(step_rows(fast, [1, 0], 2), step_rows(plain, [1, 0], 4))
    assert relative_error(kv_of(fast, 2), kv_of(plain, 2)) <= 1e-5


def test_a_pytorch_without_buffers_for_products_gives_the_same(
    model: DualAR, network: PackedNetwork, monkeypatch: pytest.MonkeyPatch
):
    decoder = packed(network, new_decoder(model, 1, max_positions=128))
    begin(model, decoder, 0, MIXED[0])
    codes = [step_rows(decoder, [0], 1) for _ in range(5)]
    monkeypatch.setattr(cpu_linear, "_writes_into_buffers", lambda: False)
    older = packed(PackedNetwork.of(model), new_decoder(model, 1, max_positions=128))
    begin(model, older, 0, MIXED[0])
    assert torch.equal(torch.cat(codes), torch.cat([step_rows(older, [0], 1) for _ in range(5)]))
    assert torch.equal(decoder.store.data, older.store.data)


def test_the_setting_chooses_the_step(model: DualAR):
    decoder = new_decoder(model, 1, max_positions=64)
    for is_fast, kind in ((True, PackedFrameDecoder), (False, FrameDecoder)):
        settings = Settings(cpu_fast_linear=is_fast)
        steps = choose_steps(model, decoder.sizes, decoder.store, decoder.state, settings, None)
        assert isinstance(steps.run.__self__, kind)  # pyright: ignore[reportFunctionMemberAccess]


def test_the_number_of_threads_is_what_it_was_after_a_step(model: DualAR, network: PackedNetwork):
    decoder = packed(network, new_decoder(model, 1, max_positions=128))
    begin(model, decoder, 0, GREEDY)
    torch.set_num_threads(2)
    step_rows(decoder, [0], 1)
    assert torch.get_num_threads() == 2
