"""The batch kernel's own source, run on the CPU by ``tests/emulation``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from backend.engine.batch_linear import LinearSizes, arguments, sizes_for, source
from backend.engine.step_weights import Weights

EMULATION = Path(__file__).parents[2] / "emulation"
EPS = 1e-5

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def sizes_of(**changed: object) -> LinearSizes:
    known: dict[str, object] = {
        "width": 512, "features": 32, "split": 1, "tiles": 2, "groups": 1, "columns": 1,
        "is_gate": False, "is_int8": False, "has_norm": False, "has_residual": False,
    }  # fmt: skip
    return LinearSizes(**{**known, **changed})  # pyright: ignore[reportArgumentType]


def built(sizes: LinearSizes, folder: Path) -> ctypes.CDLL:
    (folder / "batch_linear.cu").write_text(source())
    library = folder / "linear.so"
    command = [
        "g++", "-O1", "-std=c++17", "-w", "-shared", "-fPIC", f"-I{EMULATION}",
        f'-DBATCH_LINEAR="{folder / "batch_linear.cu"}"',
        *(f"-D{key}={value}" for key, value in sizes.defines().items()),
        str(EMULATION / "batch_linear.cpp"), "-o", str(library),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def matrix(sizes: LinearSizes, seed: int) -> tuple[Weights, torch.Tensor]:
    """Weights as the kernel reads them, and their numbers."""
    if not sizes.is_int8:
        weight = (drawn(sizes.features, sizes.width, seed=seed) * sizes.width**-0.5).bfloat16()
        return Weights(weight), weight.float()
    noise = torch.Generator().manual_seed(seed)
    shape = (sizes.features, sizes.width)
    weight = torch.randint(-127, 128, shape, generator=noise, dtype=torch.int8)
    scale = torch.rand(sizes.features, generator=noise) * 1e-3
    return Weights(weight, scale), weight.float() * scale[:, None]


CASES = {
    "norm, rows short of a round": (sizes_of(has_norm=True, columns=2), 11),
    "norm and gate": (sizes_of(has_norm=True, is_gate=True, tiles=3, features=24), 8),
    "residual, two blocks, two clusters": (
        sizes_of(has_residual=True, split=2, tiles=1, groups=1, width=1024), 13,
    ),
    "norm, four blocks, three rounds": (sizes_of(has_norm=True, split=4, groups=2), 20),
    "gate, two blocks, four tiles": (
        sizes_of(has_norm=True, is_gate=True, split=2, tiles=4, groups=2), 9,
    ),
    "int8, two blocks, residual": (
        sizes_of(is_int8=True, has_residual=True, split=2, groups=2), 8,
    ),
    "int8, gate": (sizes_of(is_int8=True, is_gate=True, has_norm=True, features=16), 5),
    "activations in pieces": (
        sizes_of(width=1536, has_norm=True, has_residual=True, columns=4, features=16, tiles=1), 25,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_computes_the_layer(name: str, tmp_path: Path):
    sizes, rows = CASES[name]
    assert sizes.fits
    weights, numbers = matrix(sizes, 1)
    others, other_numbers = matrix(sizes, 2) if sizes.is_gate else (None, numbers)
    stride, out_stride = sizes.width + 16, sizes.features + 8
    x = drawn(rows, stride, seed=3)
    norm = (1 + 0.1 * drawn(sizes.width, seed=4)).bfloat16() if sizes.has_norm else None
    out = drawn(rows + 1, out_stride, seed=5)
    before = out.clone()
    args = arguments(
        x, weights, others, norm, out, rows=rows, strides=(stride, out_stride), eps=EPS
    )
    library = built(sizes, tmp_path)
    assert library.shared_bytes() == sizes.shared_bytes
    library.run_batch_linear(ctypes.byref(args), sizes.num_blocks)
    inputs = x[:, : sizes.width].float()
    if norm is not None:
        inputs = F.rms_norm(inputs, (sizes.width,), norm.float(), EPS)
    wanted = inputs @ numbers.T
    if sizes.is_gate:
        wanted = F.silu(wanted) * (inputs @ other_numbers.T)
    if sizes.has_residual:
        wanted = wanted + before[:rows, : sizes.features].float()
    made = out[:rows, : sizes.features].float()
    assert float((made - wanted).norm() / wanted.norm()) < 8e-3
    assert torch.equal(out[rows], before[rows])
    assert torch.equal(out[:, sizes.features :], before[:, sizes.features :])


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 32, 200])
def test_every_layer_of_s1_mini_is_cut_up_for_every_batch(rows: int, is_int8: bool):
    layers = ((1024, 4096, "norm"), (2048, 1024, "sum"), (1024, 3072, "gate"),
              (3072, 1024, "sum"), (1024, 2048, "norm"), (1024, 1024, "sum"))  # fmt: skip
    for width, features, kind in layers:
        sizes = sizes_for(
            width, features, rows, is_gate=kind == "gate", is_int8=is_int8,
            has_norm=kind != "sum", has_residual=kind == "sum",
        )  # fmt: skip
        assert sizes is not None
        assert sizes.num_blocks == 128
        assert sizes.columns <= 4


def test_an_odd_number_of_features_is_left_to_others():
    wanted = {"is_gate": False, "is_int8": False, "has_norm": True, "has_residual": False}
    assert sizes_for(1024, 4097, 8, **wanted) is None


def test_a_row_has_the_same_bits_in_every_batch(tmp_path: Path):
    """Whether 8 or 16 rows are done at a time, and whoever is beside it."""
    results = []
    norm = torch.ones(512).bfloat16()
    x = drawn(13, 512, seed=3)
    for columns, rows in ((1, [12]), (2, range(13))):
        sizes = sizes_of(columns=columns, has_norm=True, split=2, groups=2)
        weights, _ = matrix(sizes, 1)
        out = torch.zeros(len(rows), 32, dtype=torch.bfloat16)
        folder = tmp_path / str(columns)
        folder.mkdir()
        given = x[list(rows)].contiguous()
        args = arguments(
            given, weights, None, norm, out,
            rows=len(rows), strides=(512, 32), eps=EPS,
        )  # fmt: skip
        built(sizes, folder).run_batch_linear(ctypes.byref(args), sizes.num_blocks)
        results.append(out[-1])
    assert torch.equal(*results)
