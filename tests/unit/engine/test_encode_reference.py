"""The encoding half: loaded when needed, several recordings at once, bounded steps."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from backend.core.errors import CheckpointMismatchError
from backend.engine import encode_reference, host_weights
from backend.engine.encode_reference import ReferenceEncoder
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.weights import load_codec
from tests.parity.codec_cases import recording

CPU = torch.device("cpu")
POCKET = Path(__file__).parents[3] / "backend" / "pocket"


@pytest.fixture(scope="module")
def encoder() -> ReferenceEncoder:
    return ReferenceEncoder(POCKET, CPU)


def samples_of(num_samples: int) -> np.ndarray:
    return recording(num_samples)[0].numpy()


def test_codes_are_those_of_the_whole_codec(encoder):
    samples = samples_of(30_000)
    expected = load_codec(POCKET).encode_reference(torch.from_numpy(samples)[None])[0].numpy()
    codes = encoder.encode(samples)
    assert codes.dtype == np.int32
    assert np.array_equal(codes, expected)


def test_recordings_together_get_the_codes_they_get_alone(encoder):
    recordings = [samples_of(length) for length in (30_000, 1, 5_000, 641)]
    together = encoder.encode_many(recordings)
    for samples, codes in zip(recordings, together, strict=True):
        assert np.array_equal(codes, encoder.encode(samples))


def test_more_recordings_than_go_together_keep_their_order(encoder):
    recordings = [samples_of(700 * count) for count in (9, 1, 5, 3, 2, 8, 4, 7, 6, 10)]
    together = encoder.encode_many(recordings)
    assert np.array_equal(together[0], encoder.encode(recordings[0]))
    assert np.array_equal(together[-1], encoder.encode(recordings[-1]))
    assert np.array_equal(together[1], encoder.encode(recordings[1]))


def test_the_steps_do_not_change_the_codes(encoder, monkeypatch):
    samples = samples_of(60_000)
    codes = encoder.encode(samples)
    monkeypatch.setitem(encode_reference._CHUNK_FRAMES, "cpu", 7)
    assert np.array_equal(encoder.encode(samples), codes)


class BrokenOps(TorchOps):
    """Kernels that this machine cannot compile."""

    def compiling(self) -> NoReturn:
        raise RuntimeError("no compiler")


def test_kernels_that_fail_are_told_and_not_used(encoder, monkeypatch, caplog):
    monkeypatch.setattr(encode_reference, "why_encoder_not_fused", lambda _: None)
    samples = samples_of(9_000)
    fallen_back = ReferenceEncoder(POCKET, CPU, fused_ops=BrokenOps())
    assert "CODEC_FUSED_ENCODER" in caplog.text
    assert "no compiler" in caplog.text
    assert np.array_equal(fallen_back.encode(samples), encoder.encode(samples))


def test_a_small_encoder_is_loaded_at_once(encoder):
    assert encoder.num_bytes <= encode_reference.MOST_EAGER_BYTES
    assert encoder.is_loaded


def test_a_large_encoder_is_loaded_by_its_first_recording(encoder, monkeypatch):
    monkeypatch.setattr(encode_reference, "MOST_EAGER_BYTES", encoder.num_bytes - 1)
    lazy = ReferenceEncoder(POCKET, CPU)
    assert not lazy.is_loaded
    samples = samples_of(9_000)
    assert np.array_equal(lazy.encode(samples), encoder.encode(samples))
    assert lazy.is_loaded


def test_weights_that_come_a_layer_at_a_time_give_the_same_codes(encoder, monkeypatch):
    monkeypatch.setattr(host_weights, "SMALLEST_STREAMED_BYTES", 1 << 12)
    monkeypatch.setattr(encode_reference, "_CHUNK_FRAMES_ON_HOST", 7)
    streamed = ReferenceEncoder(POCKET, CPU, is_on_host=True)
    for num_samples in (9_000, 30_000):
        samples = samples_of(num_samples)
        assert np.array_equal(streamed.encode(samples), encoder.encode(samples))


def test_only_the_layer_that_runs_is_on_the_device():
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(512, 600) for _ in range(2))
            self.small = nn.Linear(4, 4)

    network, elsewhere = Probe(), torch.device("meta")
    resident = host_weights.stream_from_host(network, (nn.Linear,), elsewhere)
    assert resident == 4 * (4 * 4 + 4)
    seen = []
    network.layers[0].register_forward_hook(lambda *_: None)
    network.layers[1].register_forward_pre_hook(
        lambda *_: seen.append([layer.weight.device.type for layer in network.layers])
    )
    x = torch.zeros(3, 512, device=elsewhere)
    for layer in network.layers:
        layer(x)
    assert seen == [["cpu", "meta"]]
    assert [layer.weight.device.type for layer in network.layers] == ["cpu", "cpu"]
    assert network.small.weight.device.type == "meta"


def test_a_damaged_encoder_is_refused_before_it_is_needed(tmp_path, encoder, monkeypatch):
    from safetensors import safe_open

    source = POCKET / "codec.safetensors"
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(source)
    del tensors["quantizer.pre_module.norm.weight"]
    save_file(tensors, tmp_path / "codec.safetensors", metadata)
    monkeypatch.setattr(encode_reference, "MOST_EAGER_BYTES", 0)
    with pytest.raises(CheckpointMismatchError, match=r"quantizer\.pre_module\.norm\.weight"):
        ReferenceEncoder(tmp_path, CPU)


@pytest.mark.parametrize("shape", [(0,), (1, 100)])
def test_what_is_no_recording_is_refused(encoder, shape):
    with pytest.raises(ValueError, match="samples must be"):
        encoder.encode(np.zeros(shape, np.float32))


def test_kernels_that_are_being_compiled_are_awaited_before_the_first_is_started():
    said: list[str] = []

    class SayingOps(TorchOps):
        def compiling(self):
            said.append("tried out")
            return super().compiling()

    def come(timeout_s: float | None) -> bool:
        assert timeout_s is None
        said.append("awaited")
        return True

    ReferenceEncoder(POCKET, CPU, fused_ops=SayingOps(), await_kernels=come)
    assert said[:2] == ["awaited", "tried out"]


def test_while_its_kernels_are_being_compiled_a_quiet_moment_is_short(monkeypatch):
    monkeypatch.setattr(encode_reference, "MOST_EAGER_BYTES", 0)
    waits: list[float | None] = []

    def come_at_the_third_time(timeout_s: float | None) -> bool:
        waits.append(timeout_s)
        return len(waits) >= 3

    encoder = ReferenceEncoder(
        POCKET, CPU, fused_ops=TorchOps(), capture=lambda step: step,
        await_kernels=come_at_the_third_time,
    )  # fmt: skip
    assert not encoder.has_kernels()
    assert encoder.prepare_one()  # there is more to do
    assert not encoder.is_loaded
    assert encoder.prepare_one()
    assert encoder.is_loaded
    assert waits == [0.0, 0.02, 0.02, None]
    assert encoder.has_kernels()
