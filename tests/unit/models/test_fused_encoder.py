"""What the fused encoder asks of its kernels: which ones, and with which values.

That it is the encoder is shown in ``test_codec_fused.py``, and on a card in ``tests/gpu``.
"""

# The operations are overridden without their types, and stand for what only a card has.
# pyright: reportIncompatibleMethodOverride=false, reportPrivateUsage=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from backend.engine.encode_reference import COMPILED
from backend.models.codec.codec import Codec
from backend.models.codec.config import S1_MINI
from backend.models.codec.fused.encoder import FusedEncoder
from backend.models.codec.fused.ops import TorchOps, rounded_to_tf32
from backend.models.codec.fused.state import Streams
from backend.models.codec.fused.tiles import k_block, product_tile, unit_tile
from backend.models.codec.transformer import WindowTransformer
from tests.parity.codec_cases import recording
from tests.unit.models.codec_building import tiny_codec


class TileOps(TorchOps):
    """Notes which kernels the operations would start; computes nothing."""

    def __init__(self) -> None:
        self.kernels: set[tuple[object, ...]] = set()

    def room(self, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        return torch.empty(shape, device="meta")

    def compiling(self) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def product(self, streams, layer, source, *, plain=None, waved=None, wave=None, residual=None):
        result = plain or waved
        rows = source.data.shape[0] * result.length
        tile = product_tile(rows, *layer.weight.shape, "tf32")
        given = (plain is None, waved is None, residual is None)
        self.kernels.add((tile, k_block(tile, layer.channels), *given))

    def unit(self, streams, unit, source, x, *, keeps_x, waved, wave):
        tile = unit_tile(x.data.shape[0] * x.length, x.channels, "tf32")
        if tile is None:
            super().unit(streams, unit, source, x, keeps_x=keeps_x, waved=waved, wave=wave)
        else:
            self.kernels.add((tile, x.channels, keeps_x))


def test_the_encoders_kernels_of_every_length_are_compiled_with_its_weights():
    with torch.device("meta"):
        codec = Codec(S1_MINI, "encode")

    def kernels_of(sizes: Sequence[tuple[int, int]]) -> set[tuple[object, ...]]:
        ops = TileOps()
        FusedEncoder(codec, ops).compile_for(sizes)
        return ops.kernels

    compiled = kernels_of(COMPILED)
    assert len(compiled) > 15
    for frames in range(1, 257):
        assert kernels_of([(1, frames)]) <= compiled, frames
    assert kernels_of([(8, 32), (3, 85), (2, 1)]) <= compiled


def test_values_are_rounded_to_the_nearest_that_tf32_has():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(3)) * 100
    rounded = rounded_to_tf32(x)
    assert not (rounded.view(torch.int32) & 0x1FFF).any()
    step = 2.0 ** (x.abs().log2().floor() - 10)
    assert ((rounded - x).abs() <= step / 2).all()
    assert torch.equal(rounded_to_tf32(-x), -rounded)
    assert torch.equal(rounded_to_tf32(rounded), rounded)


class HalvedOps(TorchOps):
    """Rounding that shows: what products are given is half as large."""

    def rounded(self, x: Tensor) -> Tensor:
        return x / 2


def test_samples_and_weights_are_given_to_the_encoders_products_rounded():
    codec = tiny_codec()
    codec.encoder.block[0].conv.bias.data.zero_()
    plain, halved = FusedEncoder(codec, TorchOps()), FusedEncoder(codec, HalvedOps())
    assert torch.equal(halved._entry.weight, plain._entry.weight / 2)
    assert torch.equal(halved._exit.weight, plain._exit.weight / 2)
    for ours, theirs in zip(halved._stages, plain._stages, strict=True):
        assert torch.equal(ours.shrink.weight, theirs.shrink.weight / 2)
        for one, other in zip(ours.units, theirs.units, strict=True):
            assert torch.equal(one.wide.weight, other.wide.weight / 2)
            assert torch.equal(one.narrow.weight, other.narrow.weight / 2)
    samples = recording(codec.frame_length)
    row = torch.zeros(1, dtype=torch.int64)
    windows = [
        fused._windows(samples, Streams(fused.new_pool(1), row, row + 1)).data
        for fused in (plain, halved)
    ]
    assert torch.equal(windows[1], windows[0] / 2)


def test_silence_that_comes_out_as_nonsense_is_told():
    class Nonsense(TorchOps):
        def product(self, streams, layer, source, *, plain=None, waved=None, **rest):
            super().product(streams, layer, source, plain=plain, waved=waved, **rest)
            for signal in (plain, waved):
                if signal is not None:
                    signal.body.fill_(torch.nan)

    codec = tiny_codec()
    FusedEncoder(codec, TorchOps()).try_out([(1, 1), (2, 3)])
    with pytest.raises(RuntimeError, match="no latents"):
        FusedEncoder(codec, Nonsense()).try_out([(1, 1)])


@pytest.mark.parametrize("may_round", [False, True])
def test_transformers_round_products_only_where_they_may_and_only_while_they_run(may_round):
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    codec = tiny_codec()
    [first, *_] = [m for m in codec.modules() if isinstance(m, WindowTransformer)]
    first.rounds_products = may_round
    seen: list[bool] = []
    first.layers[0].register_forward_hook(lambda *_: seen.append(bool(matmul.allow_tf32)))
    first(torch.zeros(1, 3, first.norm.weight.shape[0]))
    assert seen == [may_round or before]
    assert matmul.allow_tf32 == before
