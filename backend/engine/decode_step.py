"""Stage 2b: one frame for many sequences at once.

    slot ids [P] --gather--> pending rows --slow pass--> hidden states
        --semantic draw--> code 0 --fast passes and draws--> codes 1..K-1 --> slots, codes [n, K]

Everything between slot ids and codes stays on the device: nothing is read back and no shape depends
on a value, so the step can be captured as a CUDA graph for each (P, length bound).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.engine.attention import RowAttention
from backend.engine.noise import exponential_noise
from backend.engine.sampling import sample_codes
from backend.models.layers import grouped_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.engine.attention import AttentionKind, StepAttention, StepPlan
    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotState
    from backend.engine.step_ops import BlockOps, NetworkOps

    Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FrameSizes:
    """Sizes of a frame.

    Attributes:
        num_codebooks: ``K``.
        num_semantic: Semantic codes; column ``num_semantic`` of the semantic logits is the end.
        num_residual: Codes of each residual codebook.
        semantic_begin_id: Token id of semantic code 0.
    """

    num_codebooks: int
    num_semantic: int
    num_residual: int
    semantic_begin_id: int

    @property
    def draws(self) -> list[int]:
        """Random numbers for each draw of a frame."""
        return [self.num_semantic + 1] + [self.num_residual] * (self.num_codebooks - 1)


@dataclass(frozen=True, slots=True)
class FrameDecoder:
    """Draws frames with one network for the slots of one store.

    Attributes:
        ops: What to compute with.
        sizes: Of a frame.
        store: Keys and values of the slow transformer.
        state: What else the slots keep.
        attention: How the slow transformer attends.
    """

    ops: NetworkOps
    sizes: FrameSizes
    store: KVStore
    state: SlotState
    attention: AttentionKind = RowAttention

    @torch.inference_mode()
    def step(self, slot_ids: Tensor, plan: StepPlan) -> Tensor:
        """Draw the next frame of each slot.

        A slot whose sequence ends in this step stays as it was, but for its count of steps: the
        next step would draw again, with other noise.

        Args:
            slot_ids: ``[P]`` int64 on the device, P >= ``plan.num_rows``. The wanted slots, each
                once, then the scratch slot as often as the batch needs filling up.
            plan: What the host decides.

        Returns:
            ``[num_rows, K]`` int64. ``num_semantic`` in column 0 means that the sequence ends
            there; the row's other codes then mean nothing.
        """
        positions = self.store.lengths[slot_ids]
        hidden = self._slow(slot_ids, positions, plan)
        wanted = slot_ids[: plan.num_rows]
        codes = self._draw_frames(wanted, hidden, plan)
        self._write_back(wanted, positions[: plan.num_rows], codes, plan)
        return codes

    def _slow(self, slot_ids: Tensor, positions: Tensor, plan: StepPlan) -> Tensor:
        """Hidden states ``[P, dim]`` behind the slots' pending rows."""
        x = self.ops.embed(self.state.pending[slot_ids])
        angles = self.ops.rope[positions]
        attention = self.attention(self.store, slot_ids, positions, plan)
        for layer_idx, block in enumerate(self.ops.slow):
            x = self._block(block, x, angles, _bind(attention, layer_idx))
        return x

    def _draw_frames(self, wanted: Tensor, hidden: Tensor, plan: StepPlan) -> Tensor:
        """Codes ``[n, K]`` behind the hidden states ``[P, dim]``."""
        sizes, state, num_rows = self.sizes, self.state, plan.num_rows
        rows = state.sampling.rows(wanted, has_cut=plan.has_cut, has_penalty=plan.has_penalty)
        recent = state.recent_of(wanted) if plan.has_penalty else state.recent[wanted]
        noise = exponential_noise(state.seeds[wanted], state.steps[wanted], sum(sizes.draws))
        noises = noise.split(sizes.draws, dim=1)
        # filling rows go through the network with code 0, which every codebook has
        codes = wanted.new_zeros(hidden.shape[0], sizes.num_codebooks)
        logits = self.ops.semantic_logits(hidden)[:num_rows]
        # before its least number of frames a sequence cannot end
        may_not_end = state.steps[wanted] < state.min_steps[wanted]
        logits[:, sizes.num_semantic].masked_fill_(may_not_end, float("-inf"))
        codes[:num_rows, 0] = sample_codes(logits, noises[0], rows, recent[:, 0])
        room = self._new_fast_room(hidden)
        # positions 0 (hidden state) and 1 (semantic code) need no draw between them: one pass;
        # the end is no code of its own, so it goes on as the last one
        embedded = self.ops.fast_embed(codes[:, 0].clamp(max=sizes.num_semantic - 1))
        x = torch.stack((self.ops.fast_input(hidden), embedded), dim=1)
        for codebook in range(1, sizes.num_codebooks):
            start = codebook + 1 - x.shape[1]
            logits = self._fast(x, start, room)[:num_rows]
            drawn = sample_codes(logits, noises[codebook], rows, recent[:, codebook])
            codes[:num_rows, codebook] = drawn
            if codebook + 1 < sizes.num_codebooks:
                x = self.ops.fast_embed(codes[:, codebook])[:, None]
        return codes[:num_rows]

    def _new_fast_room(self, hidden: Tensor) -> Tensor:
        """Keys and values ``[2, L, P, G, K, D]`` of one frame."""
        block = self.ops.fast[0]
        return hidden.new_empty(
            2, len(self.ops.fast), hidden.shape[0], block.num_groups, self.sizes.num_codebooks,
            block.head_dim,
        )  # fmt: skip

    def _fast(self, x: Tensor, start: int, room: Tensor) -> Tensor:
        """Logits behind the last of the positions ``x`` ``[P, T, fast_dim]``, at ``start``..."""
        angles = self.ops.fast_rope[start : start + x.shape[1]]
        for layer_idx, block in enumerate(self.ops.fast):
            x = self._block(block, x, angles, _fast_attend(room[:, layer_idx], start))
        return self.ops.fast_logits(x[:, -1])

    def _block(self, block: BlockOps, x: Tensor, angles: Tensor, attend: Attend) -> Tensor:
        """One transformer block over ``[..., dim]``."""
        q, k, v = block.project(x, angles)
        return block.finish(x, attend(q, k, v))

    def _write_back(self, wanted: Tensor, positions: Tensor, codes: Tensor, plan: StepPlan) -> None:
        """Note the frames in their slots; those that end stay as they were."""
        state, lengths = self.state, self.store.lengths
        goes_on = codes[:, :1] < self.sizes.num_semantic  # [n, 1]
        rows = torch.cat((codes[:, :1] + self.sizes.semantic_begin_id, codes), dim=1)
        rows = torch.where(goes_on, rows, state.pending[wanted])
        state.pending.index_copy_(0, wanted, rows)
        if plan.has_penalty:
            old = state.recent[wanted]
            shifted = torch.cat((old[:, :, 1:], codes[:, :, None]), dim=2)
            state.recent.index_copy_(0, wanted, torch.where(goes_on[:, :, None], shifted, old))
        state.steps.index_copy_(0, wanted, state.steps[wanted] + 1)
        lengths.index_copy_(0, wanted, positions + goes_on[:, 0])
        lengths[self.store.scratch_slot :].zero_()  # it never fills up


def _bind(attention: StepAttention, layer_idx: int) -> Attend:
    return lambda q, k, v: attention.attend(layer_idx, q, k, v)


def _fast_attend(room: Tensor, start: int) -> Attend:
    """Attention of one fast layer over the positions of a frame so far.

    Args:
        room: ``[2, P, G, K, D]``.
        start: Position of the first query.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = start + q.shape[1]
        room[0, :, :, start:end] = k.transpose(1, 2)
        room[1, :, :, start:end] = v.transpose(1, 2)
        mixed = grouped_attention(q.transpose(1, 2), room[0, :, :, :end], room[1, :, :, :end], None)
        return mixed.transpose(1, 2).flatten(2)

    return attend
