"""A stream gives the samples of the whole, however it is cut; nothing else of it is visible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.models.codec.codec import Codec
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import codes_of
from tests.unit.models.codec_building import tiny_codec

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
CHUNKINGS = [[1] * 40, [1, 1, 2, 4, 8, 8, 8, 8], [3, 37], [39, 1], [17, 17, 6], [40]]


def streamed(codec: Codec, codes: torch.Tensor, chunking: list[int]) -> torch.Tensor:
    state = codec.new_decode_state(codes.shape[0])
    return torch.cat([codec.decode_stream(c, state) for c in codes.split(chunking, -1)], -1)


def batch_of_codes(codec: Codec, batch_size: int, num_frames: int) -> torch.Tensor:
    all_frames = codes_of(codec.codebook_sizes, batch_size * num_frames)[0]
    return torch.stack(all_frames.split(num_frames, -1))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return tiny_codec()


@pytest.fixture(scope="module")
def pocket() -> Codec:
    return load_codec(POCKET, parts="decode")


@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
def test_a_stream_gives_the_samples_of_the_whole(codec, chunking):
    codes = batch_of_codes(codec, 3, 40)
    whole = codec.decode_frames(codes)
    assert whole.shape == (3, 40 * codec.frame_length)
    assert whole.dtype == torch.float32
    assert (streamed(codec, codes, chunking) - whole).abs().max() < 1e-6


@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
def test_in_double_precision_only_rounding_of_doubles_remains(chunking):
    codec = tiny_codec(torch.float64)
    codes = batch_of_codes(codec, 2, 40)
    assert (streamed(codec, codes, chunking) - codec.decode_frames(codes)).abs().max() < 1e-13


@pytest.mark.parametrize("chunking", CHUNKINGS[:3], ids=str)
def test_the_pocket_voice_streams_exactly(pocket, chunking):
    codes = batch_of_codes(pocket, 1, 40)
    assert (streamed(pocket, codes, chunking) - pocket.decode_frames(codes)).abs().max() < 1e-6


def test_chunked_decoding_gives_the_samples_of_the_whole(codec):
    codes = batch_of_codes(codec, 2, 30)
    assert (codec.decode_chunked(codes, 7) - codec.decode_frames(codes)).abs().max() < 1e-6


def test_streams_go_on_past_the_official_limit_of_4096_frames(codec):
    codes = batch_of_codes(codec, 1, 4200)
    whole = codec.decode_frames(codes)
    assert (streamed(codec, codes, [1000, 3200]) - whole).abs().max() < 1e-6
    # The window of two layers is long past, so only the positions could tell these apart.
    late = codec.decode_frames(codes[..., 4100:])
    assert (late - whole[:, 4100 * codec.frame_length :]).abs().max() > 1e-4


def test_no_sample_depends_on_a_later_frame(codec):
    codes = batch_of_codes(codec, 1, 12)
    changed = codes.clone()
    changed[..., 7] = (changed[..., 7] + 1) % 16
    before, after = codec.decode_frames(codes), codec.decode_frames(changed)
    edge = 7 * codec.frame_length
    assert torch.equal(before[:, :edge], after[:, :edge])
    assert not torch.equal(before[:, edge : edge + codec.frame_length], after[:, edge:][:, :32])


def test_rows_of_a_batch_do_not_see_each_other(codec):
    codes = batch_of_codes(codec, 4, 11)
    together = streamed(codec, codes, [4, 4, 3])
    for row, alone in enumerate(codes.split(1)):
        assert (streamed(codec, alone, [11]) - together[row]).abs().max() < 1e-6


def test_two_streams_can_take_turns_on_one_codec(codec):
    codes = batch_of_codes(codec, 2, 12).split(1)
    states = [codec.new_decode_state(1) for _ in codes]
    samples = [torch.empty(1, 0) for _ in codes]
    for at in range(0, 12, 3):
        for idx, state in enumerate(states):
            chunk = codec.decode_stream(codes[idx][..., at : at + 3], state)
            samples[idx] = torch.cat((samples[idx], chunk), -1)
    for idx, whole in enumerate(codec.decode_frames(row) for row in codes):
        assert (samples[idx] - whole).abs().max() < 1e-6


def test_a_reset_row_begins_anew_and_the_others_go_on(codec):
    codes = batch_of_codes(codec, 2, 20)
    state = codec.new_decode_state(2)
    codec.decode_stream(codes[..., :9], state)
    state.reset_row(0)
    assert state.frames == [0, 9]
    samples = codec.decode_stream(codes[..., 9:], state)
    assert state.frames == [11, 20]
    fresh = codec.decode_frames(codes[:1, :, 9:])
    continued = codec.decode_frames(codes[1:])[:, 9 * codec.frame_length :]
    assert (samples[:1] - fresh).abs().max() < 1e-6
    assert (samples[1:] - continued).abs().max() < 1e-6


def test_state_tensors_keep_their_place_and_shape(codec):
    state = codec.new_decode_state(2)
    before = [(tensor.data_ptr(), tensor.shape) for tensor in state.tensors()]
    codec.decode_stream(batch_of_codes(codec, 2, 5), state)
    assert [(tensor.data_ptr(), tensor.shape) for tensor in state.tensors()] == before
    assert all(tensor.shape[0] == state.batch_size == 2 for tensor in state.tensors())


def test_a_state_made_in_inference_mode_can_be_reset_outside_it(codec):
    with torch.inference_mode():
        state = codec.new_decode_state(1)
    codec.decode_stream(batch_of_codes(codec, 1, 2), state)
    state.reset_row(0)
    assert not any(tensor.any() for tensor in state.tensors())


@pytest.mark.parametrize("shape", [(4, 3), (1, 3, 3), (1, 4, 0)])
def test_codes_of_a_wrong_shape_are_refused(codec, shape):
    codes = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match="codes must be"):
        codec.decode_frames(codes)
    with pytest.raises(ValueError, match="codes must be"):
        codec.decode_stream(codes, codec.new_decode_state(1))


def test_a_state_of_another_batch_size_is_refused(codec):
    with pytest.raises(ValueError, match="2 streams"):
        codec.decode_stream(batch_of_codes(codec, 2, 1), codec.new_decode_state(1))


def test_chunks_of_no_frames_are_refused(codec):
    with pytest.raises(ValueError, match="chunk_frames"):
        codec.decode_chunked(batch_of_codes(codec, 1, 1), 0)
