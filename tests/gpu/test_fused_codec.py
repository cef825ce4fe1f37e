"""The fused decoding half on a card: kernels against plain operations, and against the modules."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.core.contract import FrameChunk
from backend.engine.capture import GraphRoom
from backend.engine.codec_graphs import CudaCapture
from backend.engine.decode_frames import StreamDecoder
from backend.models.codec.codec import Codec
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.encoder import FusedEncoder
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.rounding import round_weights
from tests.parity.codec_cases import codes_of, recording
from tests.unit.models.codec_building import tiny_codec
from tests.unit.models.test_codec_fused import latents_of

pytestmark = pytest.mark.gpu

CARD = torch.device("cuda:0")
SIZES: dict[str, Any] = {
    "latent_dim": 64, "dim": 64, "head_dim": 32, "n_head": 2, "decoder_dim": 384,
    "intermediate_size": 96, "window_size": 24,
}  # fmt: skip
"""192 and 96 channels in the decoder, so that whole units run as one kernel too."""
BOUND = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest relative difference of the sound."""
LEAST_DB = {torch.float16: 50.0, torch.bfloat16: 32.0}


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def codec_of(dtype: torch.dtype) -> Codec:
    codec = round_weights(tiny_codec(**SIZES), dtype).to(CARD)
    codec.reserve_positions(1024)
    return codec


def fused_of(codec: Codec) -> FusedDecoder:
    from backend.models.codec.fused.triton_ops import TritonOps

    return FusedDecoder(codec, TritonOps())


def batch_of_codes(codec: Codec, batch_size: int, num_frames: int) -> Tensor:
    codes = codes_of(codec.codebook_sizes, batch_size * num_frames)[0]
    return torch.stack(codes.split(num_frames, -1)).to(CARD)


def relative(samples: Tensor, expected: Tensor) -> float:
    return float((samples - expected).norm() / expected.norm())


def whole(fused: FusedDecoder, codes: Tensor) -> Tensor:
    rows = torch.arange(codes.shape[0], device=CARD)
    lengths = torch.full_like(rows, codes.shape[2])
    return fused.decode_rows(codes, fused.new_pool(codes.shape[0]), rows, lengths)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (5, 40), (20, 16)], ids=str)
def test_the_kernels_give_the_sound_of_the_modules(dtype, size):
    codec = codec_of(dtype)
    codes = batch_of_codes(codec, *size)
    expected = codec.decode_frames(codes)
    assert relative(whole(fused_of(codec), codes), expected) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_kernels_leave_the_state_of_the_plain_operations(dtype):
    codec = codec_of(dtype)
    codes = batch_of_codes(codec, 3, 64)
    kernels, plain = fused_of(codec), FusedDecoder(codec, TorchOps())
    pools = [fused.new_pool(4) for fused in (kernels, plain)]
    rows = torch.tensor([2, 0, 3], device=CARD)
    done = [0, 0, 0]
    for lengths in ([1, 1, 1], [3, 8, 5], [40, 33, 21]):
        piece = codes.new_zeros(3, codes.shape[1], max(lengths))
        for idx, length in enumerate(lengths):
            piece[idx, :, :length] = codes[idx, :, done[idx] : done[idx] + length]
            done[idx] += length
        numbers = torch.tensor(lengths, device=CARD)
        for fused, pool in zip((kernels, plain), pools, strict=True):
            fused.decode_rows(piece, pool, rows, numbers)
    bound = BOUND[dtype]
    assert relative(pools[0].histories.float(), pools[1].histories.float()) <= bound
    assert relative(pools[0].rings.float(), pools[1].rings.float()) <= bound
    assert pools[0].positions.tolist() == pools[1].positions.tolist() == [42, 0, 44, 27]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_streams", [1, 3, 20])
def test_streams_in_graphs_give_the_whole(dtype, num_streams):
    codec = codec_of(dtype)
    codes = batch_of_codes(codec, num_streams, 90)
    expected = whole(fused_of(codec), codes).cpu().numpy()
    fused = fused_of(codec)
    decoder = StreamDecoder(
        codec, num_streams, 32, capture=CudaCapture(GraphRoom(CARD)), fused=fused
    )
    decoder.warm_up()
    while decoder.prepare_one():
        pass
    streams = codes.to("cpu", torch.int32).numpy()
    heard: list[list[np.ndarray]] = [[] for _ in streams]
    for start, stop in zip((0, 1, 3, 8, 20), (1, 3, 8, 20, 90), strict=True):
        chunks = [FrameChunk(slot, part[:, start:stop]) for slot, part in enumerate(streams)]
        for parts, samples in zip(heard, decoder.decode(chunks), strict=True):
            parts.append(samples)
    joined = np.stack([np.concatenate(parts) for parts in heard])
    error = np.linalg.norm(joined - expected) / np.linalg.norm(expected)
    assert error <= BOUND[dtype]


def test_a_row_in_company_is_the_row_alone():
    codec = codec_of(torch.float16)
    codes = batch_of_codes(codec, 7, 30)
    together = whole(fused_of(codec), codes)
    for idx in range(7):
        alone = whole(fused_of(codec), codes[idx : idx + 1])
        assert relative(alone[0], together[idx]) <= BOUND[torch.float16]


@pytest.mark.parametrize("dtype", LEAST_DB, ids=str)
def test_half_precision_keeps_the_sound(dtype):
    exact = codec_of(torch.float32)
    codes = batch_of_codes(exact, 2, 60)
    error = relative(whole(fused_of(codec_of(dtype)), codes), exact.decode_frames(codes))
    assert -20 * np.log10(error) >= LEAST_DB[dtype]


def test_compiling_moves_no_stream():
    codec = codec_of(torch.float16)
    fused, pool = fused_of(codec), FusedDecoder(codec, TorchOps()).new_pool(3)
    before = copy.deepcopy(pool)
    fused.compile_for([(1, 1), (3, 20)], pool)
    torch.cuda.synchronize()
    assert torch.equal(pool.histories, before.histories)
    assert torch.equal(pool.positions, before.positions)


@pytest.mark.parametrize(("precision", "bound"), [("ieee", 1e-5), ("tf32", 1e-2)])
@pytest.mark.parametrize("chunk_frames", [9, 400])
def test_the_fused_encoder_gives_the_latents_of_the_modules(precision, bound, chunk_frames):
    from backend.models.codec.fused.triton_ops import TritonOps

    codec = tiny_codec(encoder_dim=64).to(CARD)
    samples = torch.stack((recording(12_000)[0], recording(24_000)[0, 12_000:])).to(CARD)
    _, expected = latents_of(codec, samples, 400)
    codec.fused_encoder = FusedEncoder(codec, TritonOps(precision=precision))
    codec.fused_encoder.compile_for([(2, 9)])
    _, latents = latents_of(codec, samples, chunk_frames)
    assert relative(latents, expected) <= bound
