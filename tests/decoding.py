"""A frame decoder of any network, for tests of the decode step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from backend.engine.attention import AttentionKind, RowAttention, StepPlan
from backend.engine.decode_step import FrameDecoder, FrameSizes
from backend.engine.kv_store import KVStore
from backend.engine.slots import SlotState
from backend.engine.step_ops import NetworkOps, module_ops
from backend.models.dual_ar import DualAR


class Decoder(Protocol):
    """What the plain decoder and the packed one have in common."""

    @property
    def sizes(self) -> FrameSizes: ...

    @property
    def store(self) -> KVStore: ...

    @property
    def state(self) -> SlotState: ...

    def step(self, slot_ids: Tensor, plan: StepPlan) -> Tensor: ...


def new_decoder(
    model: DualAR,
    num_slots: int,
    *,
    attention: AttentionKind = RowAttention,
    ops: NetworkOps | None = None,
    max_positions: int | None = None,
) -> FrameDecoder:
    """A decoder with an empty store on the model's device, in the model's type."""
    config, weight = model.config, model.embeddings.weight
    store = KVStore(
        config.n_layer, num_slots, config.n_local_heads, max_positions or config.max_seq_len,
        config.head_dim, weight.device, weight.dtype,
    )  # fmt: skip
    sizes = FrameSizes(
        config.num_codebooks, model.num_semantic, model.residual_size, model.semantic_begin_id
    )
    state = SlotState(num_slots, config.num_codebooks, weight.device)
    return FrameDecoder(ops or module_ops(model), sizes, store, state, attention)


def step_rows(decoder: Decoder, slots: list[int], size: int) -> Tensor:
    """One step of ``slots`` in a batch of ``size`` rows: codes ``[n, K]``, lengths counted."""
    store = decoder.store
    rows = tuple((slot, store.length(slot)) for slot in slots)
    bound = max(length for _, length in rows) + 1
    padded = slots + [store.scratch_slot] * (size - len(slots))
    plan = StepPlan(len(slots), bound, rows=rows)
    codes = decoder.step(torch.tensor(padded, device=store.lengths.device), plan)
    for slot, frame in zip(slots, codes, strict=True):
        store.count_on_host(slot, int(frame[0] < decoder.sizes.num_semantic))
    return codes


def step_once(decoder: Decoder, slot: int) -> Tensor | None:
    """The next frame ``[K]`` of one slot, or None at its end."""
    [frame] = step_rows(decoder, [slot], 4)
    return frame if frame[0] < decoder.sizes.num_semantic else None
