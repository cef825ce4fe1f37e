"""How decode steps run on this device: which functions, which batches, which bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from backend.engine.card_step import bound_of, choose_card_step
from backend.engine.compiling import DECODE_LAYERS, compiled_ops, not_compiled
from backend.engine.compute import CARD_BATCH_SIZES, choose_compute
from backend.engine.cpu_step import PackedFrameDecoder
from backend.engine.decode_step import FrameDecoder
from backend.engine.step_ops import module_ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.attention import StepPlan
    from backend.engine.capture import GraphRoom
    from backend.engine.decode_step import FrameSizes
    from backend.engine.kv_store import KVStore
    from backend.engine.slots import SlotState
    from backend.models.dual_ar import DualAR


INVARIANT_SLOTS = 8
"""Slots up to which one batch size for all steps costs a lone listener little (see ADR 7)."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The decode step of one engine.

    Attributes:
        run: As ``FrameDecoder.step``.
        warm_up: Prepares whatever batches of up to so many rows need.
        batch_sizes: Sizes that batches are filled up to, rising.
        bound_of: Rounds the longest length of a batch up.
        notes: What differs from what the settings asked for.
        resident_rows: Steps of up to so many rows take the whole device.
        lands_codes: Whether steps leave their codes in ``SlotState.landing``.
    """

    run: Callable[[Tensor, StepPlan], Tensor]
    warm_up: Callable[[int], None]
    batch_sizes: tuple[int, ...]
    bound_of: Callable[[int], int] = int
    notes: tuple[str, ...] = ()
    resident_rows: int = 0
    lands_codes: bool = False


def choose_steps(
    model: DualAR,
    sizes: FrameSizes,
    store: KVStore,
    state: SlotState,
    settings: Settings,
    room: GraphRoom | None,
) -> Steps:
    """Choose how decode steps run.

    Args:
        model: With its tokens bound.
        sizes: Of a frame.
        store: Keys and values of the slots.
        state: What else the slots keep.
        settings: ``CPU_FAST_LINEAR``, ``FUSED_KERNELS``, ``RESIDENT_KERNELS``, ``BATCH_KERNELS``,
            ``BATCH_INVARIANT``, ``MAX_SLOTS`` and ``ENABLE_TORCH_COMPILE`` count.
        room: Where graphs are captured, or None.
    """
    device = store.lengths.device
    compute = choose_compute(model, device, is_fast=settings.cpu_fast_linear)
    if compute.packed is not None:
        packed = PackedFrameDecoder(compute.packed, sizes, store, state)
        notes = (not_compiled(DECODE_LAYERS),) if settings.enable_torch_compile else ()
        notes = (*compute.notes, *notes)
        return Steps(packed.step, lambda _: None, compute.batch_sizes, notes=notes)
    decoder = FrameDecoder(module_ops(model), sizes, store, state)
    compiled = partial(compiled_ops, model, settings) if settings.enable_torch_compile else None
    if device.type == "cpu":
        ops, notes = (decoder.ops, ()) if compiled is None else compiled()
        decoder = replace(decoder, ops=ops)
        notes = (*compute.notes, *notes)
        return Steps(decoder.step, lambda _: None, compute.batch_sizes, notes=notes)
    card = choose_card_step(
        decoder, model, room=room, is_fused=settings.fused_kernels,
        is_resident=settings.resident_kernels, is_batch=settings.batch_kernels,
        only_size=only_batch_size(settings),
        compiled=compiled,
    )  # fmt: skip
    notes = (*compute.notes, *card.notes)
    if settings.batch_invariant == "on" and len(card.batch_sizes) > 1:
        notes += ("BATCH_INVARIANT: not kept, since the fused decode step is not used",)
    bound = partial(bound_of, max_positions=store.max_positions)
    return Steps(
        card.run, card.warm_up, card.batch_sizes, bound, notes, card.resident_rows,
        lands_codes=card.lands_codes,
    )  # fmt: skip


def only_batch_size(settings: Settings) -> int | None:
    """The size that every step of a card has, by ``BATCH_INVARIANT``; None leaves all sizes."""
    is_few = settings.max_slots <= INVARIANT_SLOTS
    if settings.batch_invariant == "off" or (settings.batch_invariant == "auto" and not is_few):
        return None
    return next(size for size in CARD_BATCH_SIZES if size >= settings.max_slots)
