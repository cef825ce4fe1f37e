"""What is kept out of the card's memory changes nothing of what is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.core.model_location import POCKET_DIR
from backend.engine import encode_reference, host_weights
from backend.engine.capture import GraphRoom
from backend.engine.encode_reference import ReferenceEncoder
from backend.models.checkpoint import load_dual_ar
from backend.models.host_tables import HOST_TABLES, mapped_to_card

pytestmark = pytest.mark.gpu

CARD = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_table_in_the_host_is_read_as_one_on_the_card(dtype: torch.dtype):
    table = torch.randn(1000, 64).to(dtype)
    before = torch.cuda.memory_allocated(CARD)
    mapped = mapped_to_card(table, CARD)
    assert torch.cuda.memory_allocated(CARD) == before
    assert (mapped.device, mapped.dtype, mapped.shape) == (CARD, dtype, table.shape)
    rows = torch.randint(0, 1000, (300,))
    found = torch.nn.functional.embedding(rows.to(CARD), mapped)
    assert torch.equal(found.cpu(), table[rows])


def test_embeddings_in_the_host_are_the_network_s(tmp_path: Path):
    on_card = load_dual_ar(POCKET_DIR, CARD, torch.bfloat16)
    rows = torch.randint(0, 200, (1, 1 + on_card.config.num_codebooks, 40), device=CARD)
    rows[:, 0, 20:] = on_card.semantic_begin_id + 3
    for tables in HOST_TABLES.values():
        lean = load_dual_ar(POCKET_DIR, CARD, torch.bfloat16, is_lean=True, host_tables=tables)
        assert torch.equal(lean.embed(rows), on_card.embed(rows))


def test_graphs_and_work_share_a_room_and_keep_their_results():
    room = GraphRoom(CARD)
    x = torch.randn(64, 64, device=CARD)
    first, product = room.capture(lambda: (x @ x).relu() @ x)
    second, total = room.capture(lambda: (x + x).exp().sum())
    first.replay()
    second.replay()
    with room.working():
        work = (torch.randn(512, 512, device=CARD) @ torch.ones(512, 512, device=CARD)).sum().item()
    assert np.isfinite(work)
    assert torch.allclose(product, (x @ x).relu() @ x)
    assert torch.allclose(total, (x + x).exp().sum())
    first.replay()
    assert torch.allclose(product, (x @ x).relu() @ x)


@pytest.mark.parametrize("has_room", [False, True])
def test_an_encoder_in_the_host_gives_the_codes_of_one_on_the_card(
    has_room: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host_weights, "SMALLEST_STREAMED_BYTES", 1 << 12)
    monkeypatch.setattr(encode_reference, "_CHUNK_FRAMES_ON_HOST", 16)
    room = GraphRoom(CARD) if has_room else None
    on_card = ReferenceEncoder(POCKET_DIR, CARD)
    on_host = ReferenceEncoder(POCKET_DIR, CARD, is_on_host=True, room=room)
    rate = 24_000
    samples = (0.3 * np.sin(2 * np.pi * 150 * np.arange(3 * rate) / rate)).astype(np.float32)
    for _ in range(2):
        assert (on_host.encode(samples) == on_card.encode(samples)).mean() > 0.99
