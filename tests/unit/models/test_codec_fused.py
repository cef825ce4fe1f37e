"""The fused decoding half against the modules, with its operations in plain PyTorch.

That the kernels compute these operations is shown on a card: ``tests/gpu/test_fused_codec.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.models.codec.codec import Codec
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.encoder import FusedEncoder
from backend.models.codec.fused.network import why_not_fused
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.fused.tiles import k_block, product_tile, split_channels, unit_tile
from backend.models.codec.rounding import round_weights
from tests.parity.codec_cases import codes_of, recording
from tests.unit.models.codec_building import tiny_codec

TOLERANCE = 1e-6
NUM_FRAMES = 40
"""Five windows of the tiny transformer, and more than its ring of 16."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    codec = tiny_codec()
    codec.reserve_positions(NUM_FRAMES)
    return codec


@pytest.fixture(scope="module")
def fused(codec) -> FusedDecoder:
    return FusedDecoder(codec, TorchOps())


def batch_of_codes(codec: Codec, batch_size: int) -> Tensor:
    codes = codes_of(codec.codebook_sizes, batch_size * NUM_FRAMES)[0]
    return torch.stack(codes.split(NUM_FRAMES, -1))


def streamed(fused: FusedDecoder, codes: Tensor, cuts: list[list[int]], rows: list[int]) -> Tensor:
    """Feed each stream its own pieces, filled up to the longest of the call with other codes."""
    pool = fused.new_pool(max(rows) + 1)
    heard: list[list[Tensor]] = [[] for _ in rows]
    done = [0] * len(rows)
    for lengths in zip(*cuts, strict=True):
        piece = codes.new_full((len(rows), codes.shape[1], max(lengths) + 1), 7)
        for idx, length in enumerate(lengths):
            piece[idx, :, :length] = codes[idx, :, done[idx] : done[idx] + length]
        samples = fused.decode_rows(piece, pool, torch.tensor(rows), torch.tensor(lengths))
        per_frame = samples.shape[1] // piece.shape[2]
        for idx, length in enumerate(lengths):
            heard[idx].append(samples[idx, : length * per_frame])
            done[idx] += length
    assert pool.positions[rows].tolist() == done
    return torch.stack([torch.cat(parts) for parts in heard])


def test_the_whole_is_that_of_the_modules(codec, fused):
    codes = batch_of_codes(codec, 2)
    lengths = torch.full((2,), NUM_FRAMES)
    samples = fused.decode_rows(codes, fused.new_pool(2), torch.tensor([1, 0]), lengths)
    whole = codec.decode_frames(codes)
    assert (samples - whole).norm() <= 1e-5 * whole.norm()
    assert (samples - whole).abs().max() <= TOLERANCE


def test_streams_of_unequal_pieces_give_the_whole(codec, fused):
    codes = batch_of_codes(codec, 3)
    cuts = [[1, 2, 4, 8, 16, 9], [17, 1, 1, 1, 3, 17], [3, 3, 3, 3, 3, 25]]
    samples = streamed(fused, codes, cuts, [4, 0, 2])
    assert (samples - codec.decode_frames(codes)).abs().max() <= TOLERANCE


def test_a_row_in_company_is_the_row_alone(codec, fused):
    codes = batch_of_codes(codec, 3)
    cuts = [[1, 30, 9], [20, 1, 19], [5, 5, 30]]
    together = streamed(fused, codes, cuts, [0, 1, 2])
    for idx in range(3):
        alone = streamed(fused, codes[idx : idx + 1], cuts[idx : idx + 1], [0])
        assert (together[idx] - alone[0]).abs().max() <= TOLERANCE


def test_a_row_that_was_reset_begins_anew(codec, fused):
    codes = batch_of_codes(codec, 2)
    pool, rows, lengths = fused.new_pool(2), torch.tensor([0, 1]), torch.tensor([20, 20])
    first = fused.decode_rows(codes[..., :20], pool, rows, lengths)
    pool.reset_row(0)
    again = fused.decode_rows(codes[[0, 1], :, :20], pool, rows, lengths)
    assert (again[0] - first[0]).abs().max() <= TOLERANCE
    assert (again[1] - first[1]).abs().max() > 1e-3


def test_streams_that_are_not_named_stay(codec, fused):
    codes = batch_of_codes(codec, 2)
    pool = fused.new_pool(3)
    fused.decode_rows(codes, pool, torch.tensor([0, 1]), torch.tensor([40, 40]))
    before = [tensor[:2].clone() for tensor in (pool.histories, pool.rings, pool.positions)]
    fused.decode_rows(codes[:1], pool, torch.tensor([2]), torch.tensor([40]))
    after = [tensor[:2] for tensor in (pool.histories, pool.rings, pool.positions)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_as_near_to_float32_as_the_modules_are(codec, dtype):
    codes = batch_of_codes(codec, 2)
    exact = codec.decode_frames(codes)
    half = round_weights(tiny_codec(), dtype)
    plain = half.decode_frames(codes)
    half.reserve_positions(NUM_FRAMES)
    fused = FusedDecoder(half, TorchOps())
    lengths = torch.full((2,), NUM_FRAMES)
    samples = fused.decode_rows(codes, fused.new_pool(2), torch.arange(2), lengths)
    assert (samples - exact).norm() <= 1.1 * (plain - exact).norm()


def test_weights_that_are_taken_are_in_memory_once(codec):
    given = tiny_codec()
    before = sum(p.numel() for p in given.parameters())
    fused = FusedDecoder(given, TorchOps())
    fused.try_out()
    fused.take_weights(given)
    assert sum(p.numel() for p in given.parameters()) < before
    assert (given.device, given.dtype) == (codec.device, codec.dtype)
    given.reserve_positions(NUM_FRAMES)
    codes = batch_of_codes(codec, 1)
    lengths = torch.full((1,), NUM_FRAMES)
    samples = fused.decode_rows(codes, fused.new_pool(1), torch.zeros(1).long(), lengths)
    assert (samples - codec.decode_frames(codes)).abs().max() <= TOLERANCE


def test_codes_beyond_their_codebook_mean_the_last_entry(codec, fused):
    codes = batch_of_codes(codec, 1)
    codes[0, :, 3], codes[0, 1, 4] = 10_000, -5
    lengths = torch.full((1,), NUM_FRAMES)
    samples = fused.decode_rows(codes, fused.new_pool(1), torch.zeros(1).long(), lengths)
    assert (samples - codec.decode_frames(codes)).abs().max() <= TOLERANCE


def test_codecs_that_do_not_fit_are_refused_with_a_reason():
    assert "multiples" in (why_not_fused(tiny_codec(decoder_dim=40)) or "")
    assert "width of its own" in (why_not_fused(tiny_codec(dim=64, n_head=4)) or "")
    assert "head width" in (why_not_fused(tiny_codec(decoder_dim=64, intermediate_size=64)) or "")


@pytest.mark.parametrize("rows", [1, 4, 32, 256, 2048, 16384, 131072])
@pytest.mark.parametrize("columns", [32, 96, 384, 1024, 3072])
@pytest.mark.parametrize("width", [96, 768, 1536, 3072])
@pytest.mark.parametrize("kind", ["half", "tf32", "ieee"])
def test_every_shape_has_a_tile(rows, columns, width, kind):
    tile = product_tile(rows, columns, width, kind)
    assert tile.m <= max(16, rows)
    assert columns % tile.n == 0 or tile.n <= 64
    assert k_block(tile, 96) in (16, 32)


def test_large_products_are_cut_up_by_the_length_of_their_sums():
    assert product_tile(65536, 384, 384, "half")[:3] == (64, 128, 64)
    assert product_tile(65536, 192, 384, "half")[:2] == (128, 64)
    assert product_tile(65536, 384, 2688, "half")[:3] == (256, 128, 64)
    assert product_tile(16384, 384, 2688, "half")[:3] == (128, 128, 64)
    assert product_tile(1024, 6144, 3072, "half")[:3] == (128, 128, 128)
    assert product_tile(65536, 384, 2688, "tf32")[:3] == (128, 128, 32)


def test_a_unit_is_one_kernel_only_where_its_channels_are_two_powers_of_two():
    assert split_channels(96) == (64, 32)
    assert split_channels(192) == (128, 64)
    assert split_channels(64) == (64, 0)
    assert split_channels(80) is None
    assert unit_tile(10_000, 384, "half") is None
    assert unit_tile(10_000, 96, "half") is not None
    assert unit_tile(10_000, 64, "ieee") is None


def latents_of(codec: Codec, samples: Tensor, chunk_frames: int) -> tuple[Tensor, Tensor]:
    """Encode; give the codes and the latents they were made of."""
    seen: list[Tensor] = []
    quantize = codec.quantizer.quantize
    codec.quantizer.quantize = lambda latents, *rest: (  # pyright: ignore[reportAttributeAccessIssue]
        seen.append(latents) or quantize(latents, *rest)
    )
    codes = codec.encode_reference(samples, chunk_frames=chunk_frames)
    codec.quantizer.quantize = quantize
    return codes, torch.cat(seen, dim=-1)


@pytest.mark.parametrize("chunk_frames", [1, 7, 200])
@pytest.mark.parametrize("takes_weights", [False, True])
def test_the_fused_encoder_is_the_encoder(chunk_frames, takes_weights):
    codec = tiny_codec()
    samples = torch.stack((recording(5000)[0], recording(10_000)[0, 5000:]))
    codes, latents = latents_of(codec, samples, 200)
    codec.fused_encoder = fused_encoder = FusedEncoder(codec, TorchOps())
    if takes_weights:
        fused_encoder.take_weights()
    fused_codes, fused = latents_of(codec, samples, chunk_frames)
    assert (fused - latents).norm() <= 1e-5 * latents.norm()
    assert torch.equal(fused_codes, codes)
