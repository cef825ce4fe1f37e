"""The decode step on a CPU: one frame with packed weights, in fixed buffers, drawn on the host.

It computes what ``FrameDecoder`` computes, to rounding. There a frame of the pocket voice spends
four fifths of its time between the products: making room, cutting views, crossing from Python into
PyTorch some 900 times. Here every result has its place before the step begins, what is not a
product is one operation or a numpy call, and everything that goes row by row is bit for bit what
the row alone gets.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.engine.cpu_buffers import SlowRow, StepBuffers
from backend.engine.host_sampling import HostSlots, draw_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from backend.engine.attention import StepPlan
    from backend.engine.cpu_buffers import BlockBuffers
    from backend.engine.cpu_network import PackedBlock, PackedNetwork
    from backend.engine.decode_step import FrameSizes
    from backend.engine.host_sampling import HostSampling
    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotState

    Rows = tuple[tuple[int, int], ...]

_silu = torch.ops.aten.silu.out
_attend = torch.nn.functional.scaled_dot_product_attention


class PackedFrameDecoder:
    """Draws frames with a packed network for the slots of one store, like ``FrameDecoder``.

    Attributes:
        sizes: Of a frame.
        store: Keys and values of the slow transformer, float32, on the CPU.
        state: What else the slots keep.
    """

    def __init__(
        self, network: PackedNetwork, sizes: FrameSizes, store: KVStore, state: SlotState
    ) -> None:
        self.sizes = sizes
        self.store = store
        self.state = state
        self._network = network
        self._slots = HostSlots(state)
        self._lengths: NDArray[np.int64] = store.lengths.numpy()
        self._buffers: dict[int, StepBuffers] = {}
        slow = network.slow_sizes
        self._scale = 1.0 / math.sqrt(slow.head_dim)
        groups = (slow.n_local_heads, slow.n_head // slow.n_local_heads)
        self._score_room = torch.zeros(2, *groups, store.max_positions)
        self._code_offsets = np.arange(sizes.num_codebooks) * network.codebook_size
        draws = sizes.draws
        self._first_draws = [sum(draws[:codebook]) for codebook in range(sizes.num_codebooks)]

    @torch.inference_mode()
    def step(self, slot_ids: Tensor, plan: StepPlan) -> Tensor:
        """Draw the next frame of each slot; see ``FrameDecoder.step``.

        Args:
            slot_ids: ``[P]`` int64, P >= ``plan.num_rows``.
            plan: Its ``rows`` are what is stepped; further slots only fill the batch up.

        Returns:
            ``[num_rows, K]`` int64.
        """
        num_rows, rows = len(slot_ids), plan.rows
        buffers = self._buffers.get(num_rows)
        if buffers is None:
            network = self._network
            buffers = StepBuffers(num_rows, self.sizes, network.slow_sizes, network.fast_sizes)
            self._buffers[num_rows] = buffers
        with _one_thread():
            self._slow(buffers, rows)
            codes = self._draw_frames(buffers, rows)
        self._write_back(rows, codes.numpy(), plan)
        return codes

    def _slow(self, buffers: StepBuffers, rows: Rows) -> None:
        """Run the slots' pending rows; leaves hidden states in ``buffers.slow.x``."""
        slow, network = buffers.slow, self._network
        slow.x[len(rows) :].zero_()
        for row, (slot, length) in enumerate(rows):
            self._embed(slot, buffers, slow.x[row])
            buffers.positions[row] = length
        torch.index_select(network.rope, 0, buffers.positions, out=buffers.turns)
        seen = [SlowRow(self.store, slot, length, self._score_room) for slot, length in rows]
        for layer_idx, block in enumerate(network.slow):
            _project_heads(block, slow)
            torch.mul(slow.turned, buffers.turns, out=slow.turned)
            for row, row_seen in enumerate(seen):
                row_seen.new[layer_idx].copy_(slow.row_keys_values[row])
                self._attend_row(slow.row_queries[row], row_seen, layer_idx, slow.row_mixed[row])
            _rest_of_block(block, slow)

    def _embed(self, slot: int, buffers: StepBuffers, out: Tensor) -> None:
        """The input ``[dim]`` of a slot's pending row: a token, or a frame of codes."""
        network, sizes = self._network, self.sizes
        pending = self._slots.pending[slot]
        token = int(pending[0])
        text = network.embeddings[token]
        if not 0 <= token - sizes.semantic_begin_id < sizes.num_semantic:
            out.copy_(text)
            return
        buffers.frame_ids.numpy()[:] = pending[1:] + self._code_offsets
        torch.index_select(network.codebook_embeddings, 0, buffers.frame_ids, out=buffers.frame)
        torch.sum(buffers.frame, 0, out=out)
        out.add_(text).div_(network.audio_divisor)

    def _attend_row(self, q: Tensor, seen: SlowRow, layer_idx: int, out: Tensor) -> None:
        """Attention of one row's queries ``[G, H // G, D]`` over its exact length."""
        scores, weights = seen.scores, seen.weights
        torch.baddbmm(scores, q, seen.keys[layer_idx], beta=0, alpha=self._scale, out=scores)
        torch.softmax(scores, -1, out=weights)
        torch.bmm(weights, seen.values[layer_idx], out=out)

    def _draw_frames(self, buffers: StepBuffers, rows: Rows) -> Tensor:
        """Codes ``[n, K]`` behind the hidden states in ``buffers.slow.x``."""
        network, sizes, slow, fast = self._network, self.sizes, buffers.slow, buffers.fast
        codes = torch.zeros(len(rows), sizes.num_codebooks, dtype=torch.int64)
        how = [self._slots.sampling(slot) for slot, _ in rows]
        network.norm.into(slow.x, slow.normed, slow.length)
        network.semantic_head.into(slow.normed, buffers.semantic_logits)
        for row, sampling in enumerate(how):
            if not sampling.may_end:
                buffers.semantic_logits[row, sizes.num_semantic] = -math.inf
        self._draw(buffers.semantic_logits, 0, how, rows, codes)
        hidden = slow.normed if network.is_fast_input_normed else slow.x
        if network.fast_project_in is None:
            fast.x.copy_(hidden)
        else:
            network.fast_project_in.into(hidden, fast.x)
        self._fast(buffers, 0)
        for codebook in range(1, sizes.num_codebooks):
            buffers.code[: len(rows)] = codes[:, codebook - 1]
            if codebook == 1:
                # the end is no code of its own, so it goes on as the last one
                buffers.code.clamp_(max=sizes.num_semantic - 1)
            torch.index_select(network.fast_embeddings, 0, buffers.code, out=fast.x)
            self._fast(buffers, codebook)
            network.fast_norm.into(fast.x, fast.normed, fast.length)
            network.fast_head.into(fast.normed, buffers.residual_logits)
            self._draw(buffers.residual_logits, codebook, how, rows, codes)
        return codes

    def _draw(
        self, logits: Tensor, codebook: int, how: list[HostSampling], rows: Rows, codes: Tensor
    ) -> None:
        """Draw one codebook's code of each row from ``[P, N]`` logits into ``codes``."""
        first, recent = self._first_draws[codebook], self._slots.recent
        on_host, drawn = logits.numpy(), codes.numpy()
        for row, (slot, _) in enumerate(rows):
            drawn[row, codebook] = draw_code(on_host[row], how[row], recent[slot, codebook], first)

    def _fast(self, buffers: StepBuffers, position: int) -> None:
        """One position of the fast transformer, in place of its input ``buffers.fast.x``."""
        fast, network = buffers.fast, self._network
        new, seen = buffers.room.new[position], buffers.room.seen[position]
        turns, last = network.fast_rope[position], len(network.fast) - 1
        for layer_idx, block in enumerate(network.fast):
            if layer_idx == 0 and position > 0:  # a code's, whatever came before it
                torch.index_select(network.fast_heads, 0, buffers.code, out=fast.qkv)
            else:
                _project_heads(block, fast)
            torch.mul(fast.turned, turns, out=fast.turned)
            new[layer_idx].copy_(fast.keys_values)
            if position == 0 and layer_idx == last:
                return  # nothing is drawn from position 0: the others only look at it
            keys, values = seen[layer_idx]
            fast.mixed_heads.copy_(_attend(fast.queries, keys, values))
            _rest_of_block(block, fast)

    def _write_back(self, rows: Rows, codes: NDArray[np.int64], plan: StepPlan) -> None:
        """Note the frames in their slots; those that end stay as they were."""
        slots, sizes = self._slots, self.sizes
        for (slot, _), frame in zip(rows, codes, strict=True):
            slots.steps[slot] += 1
            if frame[0] >= sizes.num_semantic:
                continue
            slots.pending[slot, 0] = frame[0] + sizes.semantic_begin_id
            slots.pending[slot, 1:] = frame
            self._lengths[slot] += 1
            if plan.has_penalty:
                recent = slots.recent[slot]
                recent[:, :-1] = recent[:, 1:]
                recent[:, -1] = frame


def _project_heads(block: PackedBlock, buffers: BlockBuffers) -> None:
    """From the stream to normalized queries and keys, and values."""
    block.attention_norm.into(buffers.x, buffers.normed, buffers.length)
    block.wqkv.into(buffers.normed, buffers.qkv)
    if block.qk_norm is not None:
        block.qk_norm.into(buffers.qk, buffers.qk, buffers.qk_length)


def _rest_of_block(block: PackedBlock, buffers: BlockBuffers) -> None:
    """From what attention gives to the stream behind the block."""
    block.wo.into(buffers.mixed, buffers.delta)
    buffers.x.add_(buffers.delta)
    block.ffn_norm.into(buffers.x, buffers.normed, buffers.length)
    block.gate_up.into(buffers.normed, buffers.gate_up)
    _silu(buffers.gate, out=buffers.active)
    buffers.active.mul_(buffers.up)
    block.down.into(buffers.active, buffers.delta)
    buffers.x.add_(buffers.delta)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: waking another takes longer than what it would do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
