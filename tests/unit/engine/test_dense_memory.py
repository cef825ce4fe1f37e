"""Moving weights together: the same objects, the same numbers, other memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.core.model_location import POCKET_DIR
from backend.engine.dense_memory import move_together, tensors_of
from backend.models.checkpoint import load_dual_ar
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.weights import load_codec

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Packed:
    weight: Tensor
    others: tuple[Tensor, ...]


def test_everything_that_is_held_is_found_once():
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.Linear(4, 2, bias=False))
    model.register_buffer("table", torch.arange(3))
    model.plain = torch.ones(2)  # pyright: ignore[reportAttributeAccessIssue]
    packed = Packed(first.weight, (torch.zeros(1),))
    found = list(tensors_of([{"a": packed, "b": [model, packed]}]))
    assert len(found) == len({id(each) for each in found}) == 6


def test_tensors_keep_their_numbers_and_what_they_share():
    whole = torch.randn(6, 5)
    rows, across = whole[2:4], whole.t()
    weight = nn.Parameter(torch.randn(3).half(), requires_grad=False)
    number = torch.tensor(7)
    tensors = [whole, rows, across, weight, number]
    before = [(each.clone(), each.data_ptr(), each.stride()) for each in tensors]
    move_together(tensors, CPU)
    for each, (values, address, stride) in zip(tensors, before, strict=True):
        assert torch.equal(each, values)
        assert each.stride() == stride
        assert each.data_ptr() != address
    rows.fill_(1.0)
    assert bool((whole[2:4] == 1).all())
    assert bool((across[:, 2:4] == 1).all())


def test_the_pocket_voice_speaks_as_before():
    model = load_dual_ar(POCKET_DIR, CPU, torch.float32, is_lean=True)
    codec = load_codec(POCKET_DIR, CPU, torch.float32, "decode")
    fused = FusedDecoder(codec, TorchOps())
    codec.reserve_positions(8)
    codes = torch.arange(codec.num_codebooks * 3).view(1, -1, 3) % 5
    rows = torch.zeros(1, dtype=torch.int64)

    def heard() -> Tensor:
        return fused.decode_rows(codes, fused.new_pool(1), rows, rows + 3).clone()

    before, scores = heard(), model.fast_logits(torch.ones(1, model.config.fast_dim))
    old = [each.detach() for each in model.parameters()]
    move_together(tensors_of([model, codec, fused]), CPU)
    for kept, each in zip(old, model.parameters(), strict=True):
        assert kept.data_ptr() != each.data_ptr()
    assert torch.equal(heard(), before)
    assert torch.equal(model.fast_logits(torch.ones(1, model.config.fast_dim)), scores)
