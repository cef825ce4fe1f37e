"""Prompts on a card in fused kernels: several of them at a time, in a few graphs.

A call brings stretches of rows, each behind what its slot holds. Stretches lie behind each other in
one batch of a fixed size, each from a multiple of ``BLOCK_Q`` rows on; which slot and position a
row belongs to is data. So there is one graph a batch size, whatever the prompts are, and a row has
the bits in company that it has alone. Of the last layer only keys and values are made.
"""

# Triton is not there beside a CPU torch, its launchers have no types, layers are found by index.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import triton

from backend.engine.capture import RUNS_OF_OWN_KERNELS, captured
from backend.engine.kernels.launch import compile_ahead
from backend.engine.kernels.linear import norm_rows
from backend.engine.kernels.prompt import (
    prompt_attention,
    prompt_embed,
    prompt_heads,
    prompt_linear,
)
from backend.engine.prompts import Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from backend.engine.capture import GraphRoom
    from backend.engine.kv_store import KVStore
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock

BUCKETS = (64, 128, 256, 512)
"""Rows of a batch; more take several batches."""
BLOCK_Q = 32
"""Rows of one slot that attend together; stretches begin at multiples of it."""
BLOCK_BYTES = 128
"""Of a column of keys: positions that they look at in one go, 64 in half precision."""
HOPPER_SHARED_BYTES = 200 << 10
"""Room of a program from which on four steps of a product are fetched ahead; else two."""


@dataclass(frozen=True, slots=True)
class _Tiles:
    """How a product is cut up; the same for every batch size, so that a row's bits are."""

    rows: int = 64
    features: int = 64
    inputs: int = 64
    warps: int = 4


TILES = _Tiles()


class FusedPrefill:
    """The kernels of one network over one store.

    Args:
        model: On the store's device, with its tokens bound.
        store: Of all slots.
        room: Where graphs are captured; None starts every kernel by itself.
        card: Whose limits count; that of the store unless it is told.
    """

    def __init__(
        self, model: DualAR, store: KVStore, room: GraphRoom | None,
        card: torch.device | None = None,
    ) -> None:  # fmt: skip
        self._model, self._store, self._room, self._config = model, store, room, model.config
        config, self._device = model.config, store.lengths.device
        dtype = model.norm.weight.dtype

        def new(width: int) -> Tensor:
            return torch.zeros(BUCKETS[-1], width, device=self._device, dtype=dtype)

        # all batch sizes work in the same tensors: they never run at the same time
        self._x, self._normed = new(config.dim), new(config.dim)
        self._qkv = new((config.n_head + 2 * config.n_local_heads) * config.head_dim)
        self._mixed = new(config.n_head * config.head_dim)
        self._inner = new(config.intermediate_size)
        self._stages = _stages(card or self._device, dtype)
        self._bound: dict[int, tuple[Tensor, Callable[[], object]]] = {}

    def run_many(self, stretches: Sequence[Stretch]) -> None:
        """Run stretches of different slots, as many at a time as fit into a batch."""
        for batch in _batches(stretches):
            self._run_batch(batch)

    def compile_ahead(self) -> None:
        """Compile the kernels of every batch size; nothing runs."""
        blank = torch.zeros(BUCKETS[-1] * (3 + self._config.num_codebooks), dtype=torch.int64)
        blank = blank.to(self._device)
        compile_ahead([partial(self._layers, blank, bucket) for bucket in BUCKETS])

    def warm_up(self) -> None:
        """Make the graph of every batch size."""
        self.compile_ahead()
        for bucket in reversed(BUCKETS):
            self._prepare(bucket)

    def _run_batch(self, batch: list[Stretch]) -> None:
        needed = sum(_aligned(stretch.rows.shape[1]) for stretch in batch)
        bucket = next(size for size in BUCKETS if size >= needed)
        width = 1 + self._config.num_codebooks
        packed = torch.zeros(bucket, width + 2, dtype=torch.int64)
        packed[:, width:] = -1
        start = 0
        for rows, kv in batch:
            length = rows.shape[1]
            part = packed[start : start + length]
            part[:, :width] = rows.T
            part[:, width] = kv.slot
            part[:, width + 1] = torch.arange(kv.length, kv.length + length)
            kv.advance(length)
            start += _aligned(length)
        flat = torch.cat([packed[:, :width].flatten(), packed[:, width], packed[:, width + 1]])
        static, step = self._prepare(bucket)
        on_card = static.is_cuda
        static.copy_(flat.pin_memory() if on_card else flat, non_blocking=True)
        step()

    def _prepare(self, bucket: int) -> tuple[Tensor, Callable[[], object]]:
        if bucket not in self._bound:
            width = 1 + self._config.num_codebooks
            packed = torch.zeros(bucket * (width + 2), dtype=torch.int64, device=self._device)
            packed[bucket * width :] = -1  # no row belongs to a slot
            step = partial(self._layers, packed, bucket)
            self._bound[bucket] = (
                packed,
                step if self._room is None else captured(step, self._room, RUNS_OF_OWN_KERNELS),
            )
        return self._bound[bucket]

    def _layers(self, packed: Tensor, num_rows: int) -> None:
        """Run the rows in ``packed``: ``[M, 1 + K]`` rows, ``[M]`` slots, ``[M]`` positions."""
        slots, positions = packed[-2 * num_rows :].split(num_rows)
        self._embed(packed, num_rows)
        for layer_idx, layer in enumerate(self._model.layers):
            attention = layer.attention
            self._norm(layer.attention_norm.weight, num_rows)
            self._linear(self._normed, attention.wqkv, self._qkv, num_rows)
            self._heads(layer_idx, layer, slots, positions, num_rows)
            if layer_idx == self._config.n_layer - 1:
                return
            self._attention(layer_idx, slots, positions, num_rows)
            self._linear(self._mixed, attention.wo, self._x, num_rows, is_added=True)
            self._norm(layer.ffn_norm.weight, num_rows)
            ffn = layer.feed_forward
            self._linear(self._normed, ffn.w1, self._inner, num_rows, other=ffn.w3)
            self._linear(self._inner, ffn.w2, self._x, num_rows, is_added=True)

    def _embed(self, packed: Tensor, num_rows: int) -> None:
        model, config = self._model, self._config
        scale = math.sqrt(config.num_codebooks + 1) if config.scale_codebook_embeddings else 1.0
        begin = model.semantic_begin_id
        prompt_embed[(num_rows,)](
            packed, model.embeddings.weight, model.codebook_embeddings.weight, self._x, begin,
            begin + model.num_semantic, scale, config.num_codebooks, config.codebook_size,
            config.dim, triton.next_power_of_2(config.dim),
        )  # fmt: skip

    def _norm(self, weight: Tensor, num_rows: int) -> None:
        dim = self._config.dim
        norm_rows[(num_rows,)](
            self._x, self._x, weight, self._normed, dim, dim, 0, self._config.norm_eps, dim,
            triton.next_power_of_2(dim), 0, False,
        )  # fmt: skip

    def _heads(
        self, layer_idx: int, layer: TransformerBlock, slots: Tensor, positions: Tensor,
        num_rows: int,
    ) -> None:  # fmt: skip
        config, store, attention = self._config, self._store, layer.attention
        keys, values = store.data[:, layer_idx].unbind(0)
        q_norm, k_norm = attention.q_norm, attention.k_norm
        prompt_heads[(num_rows, config.n_local_heads)](
            self._qkv, self._qkv if q_norm is None else q_norm.weight,
            self._qkv if k_norm is None else k_norm.weight, self._model.rope, keys, values,
            *store.scales_of(layer_idx), slots, positions, store.max_positions, keys.shape[1],
            config.norm_eps, config.n_head, config.n_local_heads, config.head_dim,
            triton.next_power_of_2(config.n_head // config.n_local_heads), q_norm is not None,
            store.bits, num_warps=2,
        )  # fmt: skip

    def _attention(self, layer_idx: int, slots: Tensor, positions: Tensor, num_rows: int) -> None:
        config, store = self._config, self._store
        keys, values = store.data[:, layer_idx].unbind(0)
        prompt_attention[(num_rows // BLOCK_Q, config.n_head)](
            self._qkv, keys, values, *store.scales_of(layer_idx), slots, positions, self._mixed,
            store.max_positions, keys.shape[1], config.n_head, config.n_local_heads,
            config.head_dim, BLOCK_Q, BLOCK_BYTES // self._x.dtype.itemsize, store.bits,
            num_warps=4, num_stages=2,
        )  # fmt: skip

    def _linear(
        self, x: Tensor, layer: nn.Module, out: Tensor, num_rows: int, *,
        other: nn.Module | None = None, is_added: bool = False,
    ) -> None:  # fmt: skip
        """``out = (out +) gate(x @ layer.T)`` over the first ``num_rows`` rows."""
        weight, scale, kind = _stored(layer)
        weight2, scale2, _ = _stored(layer if other is None else other)
        bias = getattr(layer, "bias", None)
        features, width = out.shape[1], x.shape[1]
        block_k = math.gcd(width, TILES.inputs)
        grid = (triton.cdiv(features, TILES.features), num_rows // TILES.rows)
        prompt_linear[grid](
            x, weight, weight2, x if scale is None else scale, x if scale2 is None else scale2,
            x if bias is None else bias, out, out, features, width, TILES.rows,
            TILES.features, block_k, kind, other is not None, bias is not None, is_added,
            num_warps=TILES.warps, num_stages=self._stages,
        )  # fmt: skip


def _stages(device: torch.device, dtype: torch.dtype) -> int:
    """Steps of a product that are fetched ahead: as many as a program has room for."""
    if device.type != "cuda" or dtype.itemsize > torch.float16.itemsize:
        return 2
    room = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return 4 if room >= HOPPER_SHARED_BYTES else 2


def _stored(layer: nn.Module) -> tuple[Tensor, Tensor | None, int]:
    """Weights, their scales and the format by its number in ``kernels.prompt``."""
    for kind, name in ((1, "weight_int8"), (2, "weight_nf4")):
        weight = getattr(layer, name, None)
        if weight is not None:
            return weight, layer.scale, kind  # pyright: ignore[reportReturnType]
    return layer.weight, None, 0  # pyright: ignore[reportReturnType]


def _aligned(length: int) -> int:
    return -(-length // BLOCK_Q) * BLOCK_Q


def _batches(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Cut long stretches and fill batches; the pieces of a slot come one after another."""
    waiting = [
        [Stretch(rows, kv) for rows in stretch.rows.split(BUCKETS[-1], dim=1) if rows.shape[1]]
        for stretch in stretches
        for kv in [stretch.kv]
    ]
    while any(waiting):
        batch: list[Stretch] = []
        used = 0
        for pieces in waiting:
            if pieces and used + _aligned(pieces[0].rows.shape[1]) <= BUCKETS[-1]:
                used += _aligned(pieces[0].rows.shape[1])
                batch.append(pieces.pop(0))
        yield batch
