"""The batch's products in CUDA C++ against the plain step, in bf16 on a Hopper card."""

# Layers are found by index.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from backend.engine.attention import StepPlan
from backend.engine.batch_step import BatchStep, why_not_batch
from backend.engine.capture import GraphRoom, captured
from backend.engine.card_step import choose_card_step
from tests.gpu.test_resident_step import DEVICE, POSITIONS, SIZES, Room, error, make_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("num_rows", "is_int8"), [(8, False), (16, False), (32, False), (64, False), (128, False),
                              (32, True), (64, True)],
)  # fmt: skip
@torch.inference_mode()
def test_it_is_as_near_to_float32_as_the_plain_step(num_rows: int, is_int8: bool):
    model = make_model(torch.bfloat16, is_int8=is_int8)
    assert why_not_batch(model, SIZES.num_residual, DEVICE) is None
    exact = Room(make_model(torch.float32, is_int8=is_int8), num_rows)
    plain, room = Room(model, num_rows), Room(model, num_rows)
    slots = torch.arange(num_rows, device=DEVICE)
    step = BatchStep(model, SIZES, room.store, room.state, slots, POSITIONS, has_pdl=True)
    step._embed()
    step._slow_pass()
    plan = StepPlan(num_rows, POSITIONS)
    wanted, usual = (
        each.decoder._slow(slots, each.store.lengths[slots], plan) for each in (exact, plain)
    )
    assert error(step._fast_x[0::2], wanted) <= 1.2 * error(usual, wanted) + 1e-3
    assert error(room.store.data, exact.store.data) <= (
        1.2 * error(plain.store.data, exact.store.data) + 1e-3
    )
    _check_first_logits(step, exact, plain, num_rows)


def _check_first_logits(step: BatchStep, exact: Room, plain: Room, num_rows: int) -> None:
    noise = torch.Generator(DEVICE).manual_seed(3)
    x = torch.randn(num_rows, 2, 1024, generator=noise, device=DEVICE).bfloat16()
    step._fast_x.copy_(x.flatten(0, 1))
    step._fast_pass(0)
    wanted, usual = (
        each.decoder._fast(
            x.to(each.model.norm.weight.dtype), 0, each.decoder._new_fast_room(x[:, 0].to(
                each.model.norm.weight.dtype))
        ).float()
        for each in (exact, plain)
    )  # fmt: skip
    assert error(step._fast_logits, wanted) <= 1.2 * error(usual, wanted) + 1e-3


@torch.inference_mode()
def test_a_graph_draws_what_the_chain_draws():
    model = make_model(torch.bfloat16)
    results = []
    for has_graph in (False, True):
        room = Room(model, 32)
        slots = torch.full((32,), room.store.scratch_slot, device=DEVICE)
        step = BatchStep(model, SIZES, room.store, room.state, slots, POSITIONS, has_pdl=True)
        run = captured(step.run, GraphRoom(DEVICE)) if has_graph else step.run
        slots.copy_(torch.arange(32))
        results.append(torch.stack([run().clone() for _ in range(20)]))
    assert torch.equal(*results)
    assert len(results[0].flatten().unique()) > 100


@pytest.mark.parametrize("num_rows", [32, 128])
@torch.inference_mode()
def test_products_of_a_row_have_the_same_bits_in_every_batch(num_rows: int):
    """Hidden states of the same sequence: attention's splits are kept the same."""
    model = make_model(torch.bfloat16)
    results = []
    for batch in (num_rows, 64):
        room = Room(model, 64)
        slots = torch.arange(batch, device=DEVICE) % 64
        step = BatchStep(model, SIZES, room.store, room.state, slots, POSITIONS, has_pdl=True)
        noise = torch.Generator(DEVICE).manual_seed(3)
        x = torch.randn(32, 1024, generator=noise, device=DEVICE).bfloat16()
        step._x[:32] = x
        layer = model.layers[0]
        step._linear(step._x, layer.attention.wqkv, step._qkv, norm=layer.attention_norm.weight)
        step._feed_forward(layer, step._x, step._inner, batch)
        results.append((step._qkv[:32].clone(), step._x[:32].clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@torch.inference_mode()
def test_steps_of_a_card_use_it_and_can_be_told_not_to():
    model = make_model(torch.bfloat16)
    rooms = [Room(model, 16) for _ in range(3)]
    slots, plan = torch.arange(16, device=DEVICE), StepPlan(16, POSITIONS)
    drawn = []
    for room, is_batch in zip(rooms, (True, False), strict=False):
        card = choose_card_step(
            room.decoder, model, room=GraphRoom(DEVICE), is_fused=True, is_resident=True,
            is_batch=is_batch,
        )  # fmt: skip
        assert card.notes == ()
        drawn.append(torch.stack([card.run(slots, plan).clone() for _ in range(10)]))
    room = rooms[-1]
    step = BatchStep(
        model, SIZES, room.store, room.state, slots, POSITIONS, has_pdl=True, is_hopper=True
    )
    assert torch.equal(torch.stack([step.run().clone() for _ in range(10)]), drawn[0])
    assert not torch.equal(*drawn)  # other sums: bfloat16 turns near ties
