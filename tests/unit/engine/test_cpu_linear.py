"""Packed weights: plain layers' numbers, the same bits in every batch, and no silence."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.core.types import SamplingParams
from backend.engine import compute as compute_module
from backend.engine.compute import choose_compute
from backend.engine.cpu_linear import (
    MAX_BATCH,
    PackedLinear,
    is_exact_in_fp16,
    stable_batch_sizes,
    why_not_packed,
)
from backend.engine.cpu_network import VectorNorm, rotation_table
from backend.models.checkpoint import load_dual_ar
from backend.models.dual_ar import DualAR
from backend.models.layers import HeadNorm, RMSNorm, apply_rope, rope_table

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
SHAPES = [(320, 960), (320, 1536), (768, 320), (256, 512)]


pytestmark = pytest.mark.usefixtures("one_thread_and_no_gradients")


def half_weight(width: int, num_out: int) -> Tensor:
    return torch.randn(num_out, width).mul_(0.05).half().float()


def relative_error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).norm() / expected.norm())


@pytest.mark.parametrize(("width", "num_out"), SHAPES)
def test_a_packed_layer_is_the_plain_one(width: int, num_out: int):
    weight, bias, x = half_weight(width, num_out), torch.randn(num_out), torch.randn(2, 4, width)
    assert relative_error(PackedLinear(weight, bias)(x), F.linear(x, weight, bias)) <= 1e-5
    assert relative_error(PackedLinear(weight)(x), F.linear(x, weight)) <= 1e-5


@pytest.mark.parametrize(("width", "num_out"), SHAPES)
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_row_has_the_same_bits_in_every_batch_size_that_is_used(
    width: int, num_out: int, is_packed: bool
):
    weight = half_weight(width, num_out)
    linear = PackedLinear(weight) if is_packed else partial(F.linear, weight=weight)
    sizes = stable_batch_sizes([(linear, width)])
    for shape in ((width,), (2, width)):
        assert_rows_keep_their_bits(linear, sizes, torch.randn(MAX_BATCH, *shape))


def assert_rows_keep_their_bits(
    linear: Callable[[Tensor], Tensor], sizes: tuple[int, ...], x: Tensor
):
    """What a row gets as the first of a batch, it gets anywhere, in any company."""
    rows = torch.cat([linear(x.roll(-row, 0)[: sizes[0]])[:1] for row in range(MAX_BATCH)])
    for size in sizes:
        order = torch.randperm(MAX_BATCH)[:size]
        assert torch.equal(linear(x[order]), rows[order])


def test_row_by_row_every_row_is_the_row_alone():
    linear, x, out = PackedLinear(half_weight(320, 513)), torch.randn(5, 320), torch.empty(5, 513)
    linear.is_row_by_row = True
    linear.into(x, out)
    assert torch.equal(out, torch.cat([linear(row) for row in x.split(1)]))


def product(x: Tensor) -> Tensor:
    """A layer that is the same for every row, whatever the machine."""
    return x * 2


def differs(at: Callable[[int, int], bool]) -> Callable[[Tensor], Tensor]:
    """A layer whose row ``i`` of ``n`` products has bits of its own where ``at(i, n)``."""

    def linear(x: Tensor) -> Tensor:
        out = product(x).flatten(0, -2)
        num_rows = len(out)
        odd = torch.tensor([at(row, num_rows) for row in range(num_rows)])
        # a sum in another order differs in its last bits, and not in every number
        out[odd, ::3] *= 1 + 2e-7
        return out.view_as(x)

    return linear


@pytest.mark.parametrize(
    ("at", "sizes"),
    [
        (lambda _row, _num_rows: False, (1, 2, 3, 4, 5, 6, 7, 8)),
        # one row is a matrix-vector product: the others agree among themselves
        (lambda _row, num_rows: num_rows == 1, (2, 3, 4, 5, 6, 7, 8)),
        (lambda _row, num_rows: num_rows < 4, (4, 5, 6, 7, 8)),
        # rows behind the last full tile of four; three pairs are six rows
        (lambda row, num_rows: num_rows > 4 and row >= num_rows // 4 * 4, (1, 2, 4, 8)),
        # sixteen rows, which are eight pairs, fill another tile than eight
        (lambda _row, num_rows: num_rows == 16, (1, 2, 3, 4, 5, 6, 7)),
        # the place in a batch counts: no company is safe
        (lambda row, _num_rows: row % 2 == 1, (1,)),
        (lambda row, num_rows: row == num_rows - 1, (1,)),
    ],
)
def test_a_size_is_used_only_where_every_row_is_proved(
    at: Callable[[int, int], bool], sizes: tuple[int, ...]
):
    assert stable_batch_sizes([(product, 16), (differs(at), 16)]) == sizes


def test_one_size_alone_is_used_where_every_size_has_bits_of_its_own():
    assert stable_batch_sizes([(lambda x: x + len(x), 16)]) == (MAX_BATCH,)


def test_a_difference_that_few_inputs_show_is_found():
    def rarely(x: Tensor) -> Tensor:
        return product(x) + 1e-3 * (x > 1.5) * (len(x) > 5)  # 7 % of the numbers

    assert stable_batch_sizes([(rarely, 64)]) == (1, 2, 3, 4, 5)


def test_why_not_names_the_reason(monkeypatch: pytest.MonkeyPatch):
    weight = half_weight(64, 32)
    assert why_not_packed([weight]) is None
    assert not is_exact_in_fp16(weight + 1e-7)
    assert "exactly" in str(why_not_packed([weight, weight + 1e-7]))
    assert "bfloat16" in str(why_not_packed([weight.bfloat16()]))
    with monkeypatch.context() as patched:
        patched.setattr(PackedLinear, "__call__", lambda _self, x: F.linear(x, weight * 1.001))
        assert "differ from plain ones by 1.0e-03" in str(why_not_packed([weight]))
    monkeypatch.delattr(torch, "fbgemm_pack_gemm_matrix_fp16")
    assert "does not pack weights" in str(why_not_packed([weight]))


def test_the_pocket_voice_is_packed_and_a_failed_probe_is_reported(
    model: DualAR, monkeypatch: pytest.MonkeyPatch
):
    assert choose_compute(model, CPU, is_fast=True).notes == ()
    assert choose_compute(model, CPU, is_fast=False).notes == ()
    monkeypatch.setattr(compute_module, "why_not_packed", lambda _weights: "of the test")
    chosen = choose_compute(model, CPU, is_fast=True)
    assert chosen.notes == ("CPU_FAST_LINEAR: plain linear layers are used, since of the test",)
    assert chosen.packed is None


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_quantized_weights_are_not_packed_and_step_in_sizes_that_were_tried(scheme: str):
    quantized = load_dual_ar(POCKET, "cpu", torch.float32, quantization=scheme)
    chosen = choose_compute(quantized, CPU, is_fast=True)
    assert "the weights are quantized" in chosen.notes[0]
    layer = quantized.layers[0].attention.wqkv  # pyright: ignore
    assert isinstance(layer, torch.nn.Module)
    assert_rows_keep_their_bits(layer, chosen.batch_sizes, torch.randn(MAX_BATCH, 320))


def test_a_half_precision_network_on_a_cpu_is_told_apart():
    half = load_dual_ar(POCKET, "cpu", torch.bfloat16)
    assert "bfloat16" in choose_compute(half, CPU, is_fast=True).notes[0]


def normalized(norm: VectorNorm, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    norm.into(x, out, x.new_empty(*x.shape[:-1], 1))
    return out


def test_norms_and_rotation_are_the_plain_ones():
    norm, head_norm = RMSNorm(320, 1e-6), HeadNorm(64, 1e-6)
    x = torch.randn(3, 320)
    for module in (norm, head_norm):
        nn.init.normal_(module.weight, 1.0, 0.2)
    vector_norm = VectorNorm.of(norm)
    assert relative_error(normalized(vector_norm, x), norm(x)) <= 1e-6
    # the floor counts where a vector is short, and keeps zero from becoming no number
    assert relative_error(normalized(vector_norm, x * 1e-3), norm(x * 1e-3)) <= 1e-6
    assert not normalized(vector_norm, torch.zeros(3, 320)).any()
    heads = torch.randn(3, 5, 64)
    assert relative_error(normalized(VectorNorm.of(head_norm), heads), head_norm(heads)) <= 1e-6
    table = rope_table(30, 64, 10_000.0, CPU).float()
    positions = torch.tensor([0, 7, 29])
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * rotation_table(table)[positions]).flatten(-2)
    assert relative_error(turned, apply_rope(heads, table[positions])) <= 1e-6
