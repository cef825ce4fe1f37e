"""The codec's fast paths on a card equal the plain one: ``python scripts/test.py --gpu``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.core.contract import FrameChunk
from backend.core.model_location import POCKET_DIR
from backend.engine.capture import GraphRoom
from backend.engine.codec_graphs import CudaCapture
from backend.engine.codec_precision import find_snake_kernel
from backend.engine.decode_frames import StreamDecoder
from backend.models.codec.codec import Codec
from backend.models.codec.layers import Snake
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import codes_of

pytestmark = pytest.mark.gpu

CARD = torch.device("cuda:0")
EXACT_BOUND = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest difference of a sample: products round differently by batch and by piece."""
CUTS = (1, 3, 7, 15, 31, 40)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def streams_of(codec: Codec, count: int) -> list[NDArray[np.int32]]:
    codes = codes_of(codec.codebook_sizes, count * CUTS[-1])[0].to(torch.int32)
    return [part.numpy() for part in codes.split(CUTS[-1], -1)]


def play(decoder: StreamDecoder, streams: list[NDArray[np.int32]]) -> NDArray[np.float32]:
    heard = []
    for start, stop in zip((0, *CUTS), CUTS, strict=False):
        chunks = [FrameChunk(slot, codes[:, start:stop]) for slot, codes in enumerate(streams)]
        heard.append(np.stack(decoder.decode(chunks)))
    return np.concatenate(heard, axis=1)


@pytest.mark.parametrize("dtype", EXACT_BOUND, ids=str)
@pytest.mark.parametrize("num_streams", [1, 3, 20])
def test_graphs_give_the_samples_of_the_eager_path_and_of_the_whole(dtype, num_streams):
    codec = load_codec(POCKET_DIR, CARD, dtype, "decode")
    streams = streams_of(codec, num_streams)
    graphs = StreamDecoder(codec, num_streams, 32, capture=CudaCapture(GraphRoom(CARD)))
    graphs.warm_up()
    while graphs.prepare_one():
        pass
    replayed = play(graphs, streams)
    eager = play(StreamDecoder(codec, num_streams, 32), streams)
    codes = torch.from_numpy(np.stack(streams)).long().to(CARD)
    whole = codec.decode_frames(codes).cpu().numpy()
    assert np.abs(replayed - eager).max() <= EXACT_BOUND[dtype]
    assert np.abs(replayed - whole).max() <= EXACT_BOUND[dtype]


def test_a_second_stream_in_a_captured_slot_begins_anew():
    codec = load_codec(POCKET_DIR, CARD, torch.float32, "decode")
    decoder = StreamDecoder(codec, 2, 32, capture=CudaCapture(GraphRoom(CARD)))
    decoder.warm_up()
    while decoder.prepare_one():
        pass
    streams = streams_of(codec, 2)
    first = play(decoder, streams)
    decoder.release(0)
    decoder.release(1)
    assert np.abs(play(decoder, streams) - first).max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 5, 700), (3, 96, 4100)], ids=str)
def test_the_fused_snake_is_the_plain_one(dtype, shape):
    kernel, notes = find_snake_kernel(CARD)
    assert kernel is not None, notes
    generator = torch.Generator().manual_seed(1)
    x = (5 * torch.randn(shape, generator=generator)).to(CARD, dtype)
    snake = Snake(shape[1]).to(CARD).requires_grad_(requires_grad=False)
    snake.alpha.copy_(0.2 + torch.rand(1, shape[1], 1, generator=generator))
    difference = (kernel(x, snake.alpha).double() - snake(x).double()).abs().max()
    assert difference <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("dtype", "least_db"), [(torch.float16, 55.0), (torch.bfloat16, 38.0)])
def test_half_precision_on_the_card_keeps_the_sound(dtype, least_db):
    exact = load_codec(POCKET_DIR, CARD, torch.float32, "decode")
    codes = codes_of(exact.codebook_sizes, 20).to(CARD)
    expected = exact.decode_frames(codes)
    error = load_codec(POCKET_DIR, CARD, dtype, "decode").decode_frames(codes) - expected
    assert 20 * torch.log10(expected.norm() / error.norm()) > least_db
