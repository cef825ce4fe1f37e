"""A room of graphs outlives its graphs."""

from __future__ import annotations

import gc

import pytest
import torch

from backend.engine.capture import GraphRoom

pytestmark = pytest.mark.gpu


def test_a_room_whose_graphs_have_all_gone_takes_new_ones():
    room = GraphRoom(torch.device("cuda", torch.cuda.current_device()))
    x = torch.arange(4.0, device="cuda")
    for factor in (2.0, 3.0):
        graph, product = room.capture(lambda factor=factor: x * factor)
        graph.replay()
        assert torch.equal(product, x * factor)
        del graph, product
        gc.collect()
