"""One frame of a batch as a chain of fused kernels.

The chain does what ``FrameDecoder.step`` does, with five kernels a layer instead of about fifteen,
and no host read anywhere: it is made to be captured in a CUDA graph. Weights are read where the
network keeps them; nothing is copied.
"""

# Triton is not there beside a CPU torch, its launchers have no types, layers are found by index.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton

from backend.engine.card_kernels import why_not_these_sizes
from backend.engine.kernels.attention import fast_attention, join_splits, slow_attention
from backend.engine.kernels.linear import few_rows_linear, many_rows_linear, norm_rows
from backend.engine.kernels.sampling import draw_codes, embed_rows, finish_frame, spread_rows
from backend.engine.step_splits import attention_splits, keys_at_once
from backend.engine.step_tiles import MOST_SPLITS, few_rows_shape, tile_shape
from backend.engine.step_weights import weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backend.engine.decode_step import FrameSizes
    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotState
    from backend.engine.step_weights import Weights
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock


class FusedStep:
    """The kernels of one batch size and length bound, with their workspace.

    Args:
        model: With its tokens bound.
        sizes: Of a frame.
        store: Keys and values of the slots.
        state: What else the slots keep.
        slot_ids: ``[P]`` int64, read at every run; rows that only fill up name the scratch slot.
        length_bound: Positions up to which the slow attention can look.
        has_pdl: Whether kernels may start before the one in front has ended (Hopper and later).
        is_hopper: Whether the card has Hopper's wide matrix instructions.
    """

    lets_early = False
    """Whether a draw may be overtaken: only where the next kernel waits before it reads."""

    def __init__(
        self, model: DualAR, sizes: FrameSizes, store: KVStore, state: SlotState,
        slot_ids: Tensor, length_bound: int, *, has_pdl: bool, is_hopper: bool = False,
    ) -> None:  # fmt: skip
        self._model, self._sizes, self._store, self._state = model, sizes, store, state
        self._slots, self._pdl = slot_ids, has_pdl
        self._is_hopper = is_hopper
        self._config = config = model.config
        self._num_rows = batch = slot_ids.shape[0]
        self._launch: dict[str, Any] = {"launch_pdl": True} if has_pdl else {}
        device, dtype = model.embeddings.weight.device, model.embeddings.weight.dtype

        def room(*shape: int, of: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*shape, device=device, dtype=of)

        self.codes = room(batch, config.num_codebooks, of=torch.int64)
        self._x = room(batch, config.dim)
        self._qkv = room(batch, (config.n_head + 2 * config.n_local_heads) * config.head_dim)
        self._mixed = room(batch, config.n_head * config.head_dim)
        self._inner = room(batch, config.intermediate_size)
        self._logits = room(batch, sizes.num_semantic + 1)
        units = batch * config.n_local_heads
        self._split_length, self._splits = attention_splits(units, length_bound)
        self._keys_at_once = keys_at_once(units)
        heads = config.n_head
        self._parts = room(batch, self._splits, heads, config.head_dim + 2, of=torch.float32)
        # rows 2 b and 2 b + 1: the hidden state and the semantic code of row b
        fast_heads = config.fast_n_head + 2 * config.fast_n_local_heads
        self._fast_x = room(2 * batch, config.fast_dim)
        self._fast_qkv = room(2 * batch, fast_heads * config.fast_head_dim)
        self._fast_mixed = room(2 * batch, config.fast_n_head * config.fast_head_dim)
        self._fast_inner = room(2 * batch, config.fast_intermediate_size)
        self._fast_logits = room(batch, sizes.num_residual)
        positions = triton.next_power_of_2(config.num_codebooks)
        self._fast_kv = room(
            2, config.n_fast_layer, batch, config.fast_n_local_heads, positions,
            config.fast_head_dim,
        )  # fmt: skip
        is_nf4 = weights_of(model.layers[0].attention.wqkv).is_nf4
        # one row (and its pair of fast positions) is served without these, but for NF4
        self._has_few_rows = batch == 1 and not is_nf4
        rows = 0 if self._has_few_rows else 2 * batch
        self._normed = room(rows * max(config.dim, config.fast_dim))
        self._parts_of_sums = room(
            MOST_SPLITS, rows * max(config.dim, config.fast_dim), of=torch.float32
        )
        self._num_open = 0
        """Parts that still have to be added to the rows whose layer was computed last."""

    def run(self) -> Tensor:
        """Draw one frame a row.

        Returns:
            ``[B, K]`` int64, the same tensor every time; column 0 is ``num_semantic`` at the end.
            The codes land in ``SlotState.landing`` as well.
        """
        self._embed()
        self._slow_pass()
        self._draw(0, self._logits, self._fast_x[1:], 2 * self._config.fast_dim)
        self._fast_passes()
        self._finish()
        return self.codes

    def _slow_pass(self) -> None:
        """All slow layers; leaves the semantic logits, and hidden states for the fast pass."""
        for layer_idx, layer in enumerate(self._model.layers):
            self._slow_layer(layer_idx, layer)
        # the head's norm also ends the last layer's sum, so it comes before the fast transformer
        self._linear(self._x, self._model.semantic_head, self._logits, norm=self._model.norm.weight)
        self._enter_fast()

    def _fast_passes(self) -> None:
        """All residual codes."""
        self._fast_pass(0)
        self._draw(1, self._fast_logits, self._fast_x, self._config.fast_dim)
        for position in range(2, self._config.num_codebooks):
            self._fast_pass(position)
            is_last = position == self._config.num_codebooks - 1
            self._draw(position, self._fast_logits, None if is_last else self._fast_x,
                       self._config.fast_dim)  # fmt: skip

    def _embed(self) -> None:
        model, config = self._model, self._config
        scale = math.sqrt(config.num_codebooks + 1) if config.scale_codebook_embeddings else 1.0
        begin = self._sizes.semantic_begin_id
        embed_rows[(self._num_rows,)](
            self._state.pending, self._slots, model.embeddings.weight,
            model.codebook_embeddings.weight, self._x, begin, begin + self._sizes.num_semantic,
            scale, int(self.lets_early), config.num_codebooks, config.codebook_size, config.dim,
            triton.next_power_of_2(config.dim), self._pdl, **self._launch,
        )  # fmt: skip

    def _slow_layer(self, layer_idx: int, layer: TransformerBlock) -> None:
        config, lengths, attention = self._config, self._store.lengths, layer.attention
        self._linear(self._x, attention.wqkv, self._qkv, norm=layer.attention_norm.weight)
        keys, values = self._store.data[:, layer_idx].unbind(0)
        k_scale, v_scale = self._store.scales_of(layer_idx)
        has_norm = attention.q_norm is not None
        q_norm = attention.q_norm.weight if attention.q_norm is not None else self._qkv
        k_norm = attention.k_norm.weight if attention.k_norm is not None else self._qkv
        share = config.n_head // config.n_local_heads
        slow_attention[(self._num_rows, config.n_local_heads, self._splits)](
            self._qkv, q_norm, k_norm, self._model.rope, keys, values, k_scale, v_scale,
            self._slots, lengths, self._mixed, self._parts, self._qkv.shape[1],
            self._store.max_positions, keys.shape[1],
            config.norm_eps, self._split_length, self._splits, config.n_head,
            config.n_local_heads, config.head_dim, max(16, triton.next_power_of_2(share)),
            self._keys_at_once, has_norm, self._store.bits, self._pdl, num_warps=4,
            **self._launch,
        )  # fmt: skip
        if self._splits > 1:
            join_splits[(self._num_rows, config.n_head)](
                self._parts, self._slots, lengths, self._mixed, self._split_length, self._splits,
                config.n_head, config.head_dim, triton.next_power_of_2(self._splits), self._pdl,
                num_warps=2, **self._launch,
            )  # fmt: skip
        self._linear(self._mixed, attention.wo, self._x, residual=self._x)
        self._feed_forward(layer, self._x, self._inner, self._num_rows)

    def _feed_forward(
        self, layer: TransformerBlock, x: Tensor, inner: Tensor, num_rows: int
    ) -> None:
        ffn = layer.feed_forward
        self._linear(x, ffn.w1, inner, norm=layer.ffn_norm.weight, other=ffn.w3, num_rows=num_rows)
        self._linear(inner, ffn.w2, x, residual=x, num_rows=num_rows)

    def _enter_fast(self) -> None:
        """Hidden states to the first position of each row's pair."""
        config = self._config
        stride = 2 * config.fast_dim
        if config.fast_dim == config.dim and not config.norm_fastlayer_input:
            spread_rows[(self._num_rows,)](
                self._x, self._fast_x, stride, config.dim, triton.next_power_of_2(config.dim),
                self._pdl, **self._launch,
            )  # fmt: skip
            return
        norm = self._model.norm.weight if config.norm_fastlayer_input else None
        self._linear(
            self._x, self._model.fast_project_in, self._fast_x, norm=norm, out_stride=stride
        )

    def _fast_pass(self, position: int) -> None:
        """Positions 0 and 1 together for ``position`` 0, else one; leaves the logits."""
        config = self._config
        is_pair = position == 0
        rows = 2 * self._num_rows if is_pair else self._num_rows
        for layer_idx, layer in enumerate(self._model.fast_layers):
            attention = layer.attention
            self._linear(
                self._fast_x, attention.wqkv, self._fast_qkv,
                norm=layer.attention_norm.weight, num_rows=rows,
            )  # fmt: skip
            has_norm = attention.q_norm is not None
            q_norm = attention.q_norm.weight if attention.q_norm is not None else self._fast_qkv
            k_norm = attention.k_norm.weight if attention.k_norm is not None else self._fast_qkv
            fast_attention[(self._num_rows, config.fast_n_local_heads)](
                self._fast_qkv, q_norm, k_norm, self._model.fast_rope,
                self._fast_kv[0, layer_idx], self._fast_kv[1, layer_idx], self._fast_mixed,
                position, self._fast_qkv.shape[1], config.norm_eps, config.fast_n_head,
                config.fast_n_local_heads, config.fast_head_dim,
                config.fast_n_head // config.fast_n_local_heads, self._fast_kv.shape[4],
                is_pair, has_norm, self._pdl, num_warps=1, **self._launch,
            )  # fmt: skip
            self._linear(
                self._fast_mixed, attention.wo, self._fast_x, residual=self._fast_x, num_rows=rows
            )
            self._feed_forward(layer, self._fast_x, self._fast_inner, rows)
        stride = (2 if is_pair else 1) * config.fast_dim
        x = self._fast_x[1:] if is_pair else self._fast_x
        self._linear(
            x, self._model.fast_output, self._fast_logits, norm=self._model.fast_norm.weight,
            num_rows=self._num_rows, x_stride=stride, num_out=self._sizes.num_residual,
        )  # fmt: skip

    def _draw(self, codebook: int, logits: Tensor, following: Tensor | None, stride: int) -> None:
        config, state, sizes = self._config, self._state, self._sizes
        rows = state.sampling
        limit = sizes.num_semantic if codebook == 0 else sizes.num_residual
        draw_codes[(self._num_rows,)](
            logits, self._slots, state.seeds, state.steps, rows.temperature, rows.greedy,
            rows.top_p, rows.top_k, rows.repetition_penalty, state.window, state.min_steps,
            state.recent,
            self.codes, self._model.fast_embeddings.weight,
            logits if following is None else following, logits.shape[1], logits.shape[1],
            sum(sizes.draws[:codebook]), codebook, stride, limit, int(following is not None),
            int(self.lets_early), triton.next_power_of_2(logits.shape[1]), config.num_codebooks,
            state.recent.shape[2], config.fast_dim, triton.next_power_of_2(config.fast_dim),
            self._pdl, num_warps=16 if codebook == 0 else 8, **self._launch,
        )  # fmt: skip

    def _finish(self) -> None:
        config, state = self._config, self._state
        finish_frame[(self._num_rows,)](
            self.codes, state.landing, self._slots, state.pending, state.recent,
            self._store.lengths, state.steps, self._sizes.semantic_begin_id,
            self._sizes.num_semantic, self._store.scratch_slot, config.num_codebooks,
            triton.next_power_of_2(config.num_codebooks), state.recent.shape[2], self._pdl,
            num_warps=1, **self._launch,
        )  # fmt: skip

    def _linear(
        self, x: Tensor, layer: nn.Module | Tensor, out: Tensor, *, norm: Tensor | None = None,
        other: nn.Module | None = None, residual: Tensor | None = None,
        num_rows: int | None = None, x_stride: int | None = None, out_stride: int | None = None,
        num_out: int | None = None,
    ) -> None:  # fmt: skip
        """``out = (residual +) gate(norm(x) @ layer.T)`` over the first ``num_rows`` rows."""
        weights, others = weights_of(layer), None if other is None else weights_of(other)
        rows = num_rows or self._num_rows
        features = num_out or weights.weight.shape[0]
        strides = (x_stride or x.shape[1], out_stride or out.shape[1])
        if self._has_few_rows:
            self._linear_of_few(x, weights, others, out, norm, residual, rows, features, strides)
            return
        if norm is not None:
            x, strides = self._normalized(x, norm, rows, strides[0]), (x.shape[1], strides[1])
        self._linear_of_many(
            x, weights, others, out, rows, features, strides, is_sum=residual is not None
        )

    def _normalized(self, x: Tensor, norm: Tensor, rows: int, stride: int) -> Tensor:
        """Rows ``[rows, dim]`` after the sum that is open, normalized."""
        width = x.shape[1]
        normed = self._normed[: rows * width].view(rows, width)
        parts = self._parts_of_sums
        # of a pair's rows only the second goes on: every other row of the sum, from the second
        first = width if stride > width else 0
        norm_rows[(rows,)](
            x, parts[:, first:], norm, normed, stride, stride, parts.stride(0),
            self._config.norm_eps, width, triton.next_power_of_2(width), self._num_open,
            self._pdl, num_warps=8, **self._launch,
        )  # fmt: skip
        self._num_open = 0
        return normed

    def _linear_of_few(
        self, x: Tensor, weights: Weights, others: Weights | None, out: Tensor,
        norm: Tensor | None, residual: Tensor | None, rows: int, features: int,
        strides: tuple[int, int],
    ) -> None:  # fmt: skip
        width = weights.num_inputs
        second = others or weights
        block_n, warps = few_rows_shape(width, is_int8=weights.is_int8)
        few_rows_linear[(triton.cdiv(features, block_n),)](
            x, x if norm is None else norm, weights.weight, second.weight,
            x if weights.scale is None else weights.scale,
            x if second.scale is None else second.scale,
            x if weights.bias is None else weights.bias,
            out if residual is None else residual, out, features, *strides,
            self._config.norm_eps, width, triton.next_power_of_2(width), rows, block_n,
            norm is not None, others is not None, weights.bias is not None, residual is not None,
            weights.is_int8, self._pdl, num_warps=warps, **self._launch,
        )  # fmt: skip

    def _linear_of_many(
        self, x: Tensor, weights: Weights, others: Weights | None, out: Tensor, rows: int,
        features: int, strides: tuple[int, int], *, is_sum: bool,
    ) -> None:  # fmt: skip
        width = weights.num_inputs
        second = others or weights
        shape = tile_shape(
            rows, features, width, is_sum=is_sum, is_nf4=weights.is_nf4, is_hopper=self._is_hopper
        )
        if is_sum:
            out, strides = self._parts_of_sums, (strides[0], features)
            self._num_open = shape.split_k
        own_bytes = weights.weight.shape[1] * weights.weight.element_size() // shape.split_k
        lines = triton.next_power_of_2(triton.cdiv(own_bytes, 128))
        grid = (
            triton.cdiv(features, shape.block_n), triton.cdiv(rows, shape.block_m), shape.split_k,
        )  # fmt: skip
        many_rows_linear[grid](
            x, weights.weight, second.weight, x if weights.scale is None else weights.scale,
            x if second.scale is None else second.scale,
            x if weights.bias is None else weights.bias, out, rows, features,
            *strides, out.stride(0), width, lines, shape.block_m, shape.block_n, shape.block_k,
            shape.split_k, others is not None, weights.bias is not None,
            weights.is_int8, weights.is_nf4, self._pdl, num_warps=shape.warps,
            num_stages=shape.stages, **self._launch,
        )  # fmt: skip


def why_not_fused(model: DualAR) -> str | None:
    """Why the kernels cannot run this network, or None if they can."""
    is_nf4 = weights_of(model.layers[0].attention.wqkv).is_nf4
    return why_not_these_sizes(model.config, is_nf4=is_nf4)
