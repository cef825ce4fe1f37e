"""Whether streams go through the fused decoder or the codec's modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from backend.core.contract import FrameChunk
from backend.engine.codec_precision import FusedChoice, choose_codec_precision
from backend.engine.codec_setup import CodecSetup
from backend.models.codec.codec import Codec
from backend.models.codec.fused.ops import TorchOps
from tests.parity.codec_cases import codes_of
from tests.unit.models.codec_building import tiny_codec

FITTING: dict[str, Any] = {"decoder_dim": 64, "head_dim": 32, "n_head": 1}
"""Sizes that the fused decoder takes."""


class BrokenOps(TorchOps):
    """Kernels that this machine cannot run."""

    def sound(self, streams: object, layer: object, source: object, samples: torch.Tensor) -> None:
        raise RuntimeError("out of resource: shared memory")


class SilentlyWrongOps(TorchOps):
    """Kernels whose result is no sound."""

    def sound(self, streams: object, layer: object, source: object, samples: torch.Tensor) -> None:
        samples.fill_(torch.nan)


def setup_with(ops: TorchOps | None) -> CodecSetup:
    precision = choose_codec_precision("fp32", torch.device("cpu"))
    return CodecSetup(
        precision, snake=None, fused=FusedChoice(decode=ops), capture=None, max_frames=8,
        batching=True,
    )  # fmt: skip


def weights_of(codec: Codec) -> int:
    return sum(parameter.numel() for parameter in codec.parameters())


@pytest.mark.parametrize(
    ("ops", "changes", "is_fused", "named"),
    [
        (TorchOps(), {}, True, "decodes in fused kernels"),
        (None, {}, False, ""),
        (BrokenOps(), {}, False, "not in fused kernels: Triton failed (out of resource: shared"),
        (SilentlyWrongOps(), {}, False, "no sound"),
        (TorchOps(), {"decoder_dim": 40}, False, "multiples"),
    ],
)
def test_streams_sound_the_same_whatever_they_run_on_and_people_are_told(
    ops, changes, is_fused, named
):
    codec, codes = tiny_codec(**{**FITTING, **changes}), codes_of(tiny_codec().codebook_sizes, 12)
    expected, weights = codec.decode_frames(codes)[0].numpy(), weights_of(codec)
    decoder, notes = setup_with(ops).stream_decoder(codec, 2)
    assert (weights_of(codec) < weights) == is_fused
    assert len(notes) == bool(named)
    assert named in "".join(notes)
    [samples] = decoder.decode([FrameChunk(1, codes[0].to(torch.int32).numpy())])
    assert np.abs(samples - expected).max() <= 1e-6
