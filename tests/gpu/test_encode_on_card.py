"""Recordings in CUDA graphs get the codes of the eager path: ``python scripts/test.py --gpu``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.core.model_location import POCKET_DIR
from backend.engine.capture import GraphRoom
from backend.engine.encode_graphs import CHUNK_FRAMES, EncodeCapture, EncodeGraphs
from backend.engine.encode_reference import ReferenceEncoder
from backend.models.codec.codec import Codec
from backend.models.codec.fused.encoder import FusedEncoder, why_encoder_not_fused
from backend.models.codec.transformer import WindowTransformer
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import recording
from tests.unit.models.codec_building import tiny_codec

pytestmark = pytest.mark.gpu

CARD = torch.device("cuda:0")
FRAMES = (1, 40, 300, 256, 3)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def prepared(graphs: EncodeGraphs) -> EncodeGraphs:
    while graphs.prepare_one():
        pass
    assert graphs.num_graphs == len(CHUNK_FRAMES)
    return graphs


def fused(codec: Codec) -> Codec:
    from backend.models.codec.fused.triton_ops import TritonOps

    assert why_encoder_not_fused(codec) is None
    codec.fused_encoder = FusedEncoder(codec, TritonOps(precision="tf32"))
    codec.fused_encoder.try_out([(1, 1), (1, 12)])
    for module in codec.modules():
        if isinstance(module, WindowTransformer):
            module.rounds_products = True
    return codec


@pytest.mark.parametrize("kind", ["modules", "fused"])
def test_graphs_give_the_codes_of_the_same_steps_without_graphs(kind):
    if kind == "fused":
        codec = fused(tiny_codec(encoder_dim=64).to(CARD))
    else:
        codec = load_codec(POCKET_DIR, CARD, torch.float32, "encode")
    graphs = prepared(EncodeGraphs(codec, EncodeCapture(GraphRoom(CARD))))
    plain = prepared(EncodeGraphs(codec, lambda step: step))
    for frames in FRAMES:
        samples = recording(frames * codec.frame_length - 5)[0].numpy()
        codes = graphs.encode(samples)
        assert codes.shape[1] == frames
        assert np.array_equal(codes, plain.encode(samples))
        assert np.array_equal(codes, graphs.encode(samples))  # nothing stays of a recording


def test_an_encoder_with_graphs_gives_the_codes_of_one_without():
    room = GraphRoom(CARD)
    eager = ReferenceEncoder(POCKET_DIR, CARD, room=room)
    captured = ReferenceEncoder(POCKET_DIR, CARD, room=room, capture=EncodeCapture(room))
    while captured.prepare_one():
        pass
    for frames in FRAMES:
        samples = recording(frames * 2048 - 5)[0].numpy()
        assert (captured.encode(samples) == eager.encode(samples)).mean() > 0.99
