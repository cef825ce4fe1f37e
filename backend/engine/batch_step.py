"""One frame of a batch on a Hopper card: the chain of ``FusedStep`` with its products in CUDA C++.

A product of ``batch_linear`` has the norm in front and the residual behind in itself, also where
several blocks share its sums: a layer is five kernels instead of eight. Attention, draws and the
head of the slow transformer are those of ``FusedStep``.
"""

# Triton is not there beside a CPU torch, layers are found by index.
# pyright: reportArgumentType=false, reportAssignmentType=false

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch

from backend.engine.batch_linear import (
    COLUMNS,
    NAME,
    NUM_THREADS,
    LinearSizes,
    arguments,
    sizes_for,
    source,
)
from backend.engine.fused_step import FusedStep
from backend.engine.kernels.launch import is_compiling
from backend.engine.nvrtc import Kernel, KernelError, compiled
from backend.engine.step_weights import weights_of
from backend.models.quantized_linear import QuantizedLinear

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock


class BatchStep(FusedStep):
    """The kernels of one batch size and length bound, see ``FusedStep``.

    ``why_not_batch`` has nothing against the model.
    """

    def _linear(
        self, x: Tensor, layer: nn.Module | Tensor, out: Tensor, *, norm: Tensor | None = None,
        other: nn.Module | None = None, residual: Tensor | None = None,
        num_rows: int | None = None, x_stride: int | None = None, out_stride: int | None = None,
        num_out: int | None = None,
    ) -> None:  # fmt: skip
        assert residual is None or residual is out, "sums are made in place"
        weights, others = weights_of(layer), None if other is None else weights_of(other)
        features = num_out or weights.weight.shape[0]
        sizes = sizes_for(
            weights.num_inputs, features, self._num_rows, is_gate=other is not None,
            is_int8=weights.is_int8, has_norm=norm is not None, has_residual=residual is not None,
        )  # fmt: skip
        if sizes is None:  # the head of the slow transformer: an odd number of features
            super()._linear(
                x, layer, out, norm=norm, other=other, residual=residual, num_rows=num_rows,
                x_stride=x_stride, out_stride=out_stride, num_out=num_out,
            )  # fmt: skip
            return
        if is_compiling():
            return
        args = arguments(
            x, weights, others, norm, out, rows=num_rows or self._num_rows,
            strides=(x_stride or x.shape[1], out_stride or out.shape[1]),
            eps=self._config.norm_eps,
        )  # fmt: skip
        kernel = kernel_of(sizes, x.device, has_pdl=self._pdl)
        kernel.launch(
            sizes.num_blocks, NUM_THREADS, args, starts_early=self._pdl, is_cooperative=False
        )


def why_not_batch(model: DualAR, num_residual: int, device: torch.device) -> str | None:
    """Why the kernels cannot run this network on ``device``, or None if they can.

    It compiles them if all else is well, in parallel and once a machine. ``num_residual`` are the
    residual codes that are drawn from.
    """
    if torch.cuda.get_device_capability(device) != (9, 0):
        return "they were proved on compute capability 9.0 alone"
    if model.norm.weight.dtype != torch.bfloat16:
        return "they are for bf16"
    kinds = set[LinearSizes]()
    for layer in (*model.layers, *model.fast_layers):
        for columns in COLUMNS:
            sizes = _sizes_of(layer, 8 * columns)
            if sizes is None:
                return "its layers do not divide among the multiprocessors"
            kinds.update(sizes)
    heads = (_head_sizes(model, num_residual, 8 * columns) for columns in COLUMNS)
    kinds.update(filter(None, heads))
    try:
        with ThreadPoolExecutor(len(kinds)) as threads:  # the compiler works outside Python's lock
            list(threads.map(lambda each: _image(each, device, has_pdl=True), kinds))
    except KernelError as error:
        return str(error).splitlines()[0]
    return None


def _sizes_of(layer: TransformerBlock, rows: int) -> list[LinearSizes] | None:
    """Kernels of one layer for batches of so many rows, or None if one of them cannot be."""
    attention, ffn = layer.attention, layer.feed_forward
    linears = (attention.wqkv, attention.wo, ffn.w1, ffn.w2)
    kinds = list[LinearSizes]()
    for linear in linears:
        if not isinstance(linear, torch.nn.Linear | QuantizedLinear) or linear.bias is not None:
            return None
        sizes = sizes_for(
            linear.in_features, linear.out_features, rows, is_gate=linear is ffn.w1,
            is_int8=isinstance(linear, QuantizedLinear), has_norm=linear in linears[::2],
            has_residual=linear in linears[1::2],
        )  # fmt: skip
        if sizes is None:
            return None
        kinds.append(sizes)
    return kinds


def _head_sizes(model: DualAR, num_residual: int, rows: int) -> LinearSizes | None:
    """Kernel of the fast transformer's head, which may run in Triton instead."""
    weights = weights_of(model.fast_output)
    return sizes_for(
        weights.num_inputs, num_residual, rows, is_gate=False, is_int8=weights.is_int8,
        has_norm=True, has_residual=False,
    )  # fmt: skip


def _image(sizes: LinearSizes, device: torch.device, *, has_pdl: bool) -> bytes:
    defines = sizes.defines()
    if has_pdl:
        defines["HAS_PDL"] = 1
    return compiled(source(), defines, device)


@cache
def kernel_of(sizes: LinearSizes, device: torch.device, *, has_pdl: bool) -> Kernel:
    """The kernel of these sizes, compiled and loaded once a process."""
    return Kernel(_image(sizes, device, has_pdl=has_pdl), NAME, sizes.shared_bytes)
