"""The decode step on a card: fused kernels where they can run, in CUDA graphs where allowed.

Every step has a batch size and a bound on its lengths. For each pair there is one graph, made once:
it reads the slots' numbers from its own tensor and everything else from the slots. All pairs are
made at warm-up, and a graph holds every kind of sampling (a row that asks for less draws what it
would draw without), so no request pays for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from backend.engine.attention import MaskedAttention, StepPlan
from backend.engine.capture import RUNS_BEFORE_CAPTURE, RUNS_OF_OWN_KERNELS, captured
from backend.engine.compiling import DECODE_LAYERS, not_compiled
from backend.engine.compute import CARD_BATCH_SIZES
from backend.engine.step_weights import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.engine.capture import GraphRoom
    from backend.engine.compiling import CompiledOps
    from backend.engine.decode_step import FrameDecoder
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock

SHORTEST_BOUND = 256
HOPPER = (9, 0)
RESIDENT_ROWS = 16
"""Rows up to which resident kernels are faster than a chain of Triton kernels: measured on an H200,
as are the next two."""
RESIDENT_ROWS_BESIDE_BATCH, RESIDENT_INT8_ROWS_BESIDE_BATCH = 4, 8
"""Likewise where the products of a chain can be CUDA kernels, by the weights."""
BATCH_ROWS, BATCH_INT8_ROWS = 16, 32
"""Rows up to which products in CUDA kernels are faster than in Triton, by the weights; for one row
they are not."""


@dataclass(frozen=True, slots=True)
class CardStep:
    """Steps of one decoder.

    Attributes:
        run: As ``FrameDecoder.step``.
        warm_up: Makes every graph of up to so many rows.
        batch_sizes: Sizes that batches are filled up to, rising.
        notes: What differs from what the settings asked for.
        resident_rows: Steps of up to so many rows take the whole card.
        lands_codes: Whether steps leave their codes in ``SlotState.landing``.
    """

    run: Callable[[Tensor, StepPlan], Tensor]
    warm_up: Callable[[int], None]
    batch_sizes: tuple[int, ...] = CARD_BATCH_SIZES
    notes: tuple[str, ...] = ()
    resident_rows: int = 0
    lands_codes: bool = False


def bound_of(length: int, max_positions: int) -> int:
    """The bound of a batch whose longest row has ``length`` positions: 256, 512, 1024, ..."""
    bound = SHORTEST_BOUND
    while bound < length:
        bound *= 2
    return min(bound, max_positions)


def keys_of(
    max_rows: int, max_positions: int, batch_sizes: tuple[int, ...], boundless_rows: int
) -> list[tuple[int, int]]:
    """Rows and bounds of all steps that batches of up to ``max_rows`` need; see ``BoundSteps``."""
    bounds: list[int] = []
    while not bounds or bounds[-1] < max_positions:
        bounds.append(bound_of(bounds[-1] + 1 if bounds else 1, max_positions))
    most = next(size for size in batch_sizes if size >= max_rows)
    sizes = [size for size in batch_sizes if size <= most]
    keys = (
        _key_of(size, bound, max_positions, boundless_rows) for size in sizes for bound in bounds
    )
    return list(dict.fromkeys(keys))


def _key_of(num_rows: int, bound: int, max_positions: int, boundless_rows: int) -> tuple[int, int]:
    return num_rows, max_positions if num_rows <= boundless_rows else bound


def rows_of_kinds(
    only_size: int | None, *, is_resident: bool, is_batch: bool, is_int8: bool
) -> tuple[int, int]:
    """Rows up to which steps are resident, and up to which they multiply in CUDA kernels."""
    # steps for one size alone serve any length, which resident kernels do without more work
    is_beside_batch = is_batch and only_size is None
    most_rows = RESIDENT_ROWS
    if is_beside_batch:
        most_rows = RESIDENT_INT8_ROWS_BESIDE_BATCH if is_int8 else RESIDENT_ROWS_BESIDE_BATCH
    batch_rows = BATCH_INT8_ROWS if is_int8 else BATCH_ROWS
    return most_rows if is_resident else 0, batch_rows if is_batch else 0


def resident_sizes(only_size: int | None, *, is_batch: bool, is_int8: bool) -> tuple[int, ...]:
    """Give the batch sizes of steps that resident kernels run, where they do."""
    most_rows, _ = rows_of_kinds(only_size, is_resident=True, is_batch=is_batch, is_int8=is_int8)
    sizes = CARD_BATCH_SIZES if only_size is None else (only_size,)
    return tuple(size for size in sizes if size <= most_rows)


def choose_card_step(
    decoder: FrameDecoder, model: DualAR, *, room: GraphRoom | None, is_fused: bool,
    is_resident: bool = False, is_batch: bool = False, only_size: int | None = None,
    compiled: Callable[[], CompiledOps] | None = None,
) -> CardStep:  # fmt: skip
    """Choose how steps run on the card that ``model`` is on.

    Args:
        decoder: The plain step.
        model: Its network, with its tokens bound.
        room: Where graphs are captured; None runs the same steps eagerly.
        is_fused: The setting ``FUSED_KERNELS``.
        is_resident: The setting ``RESIDENT_KERNELS``.
        is_batch: The setting ``BATCH_KERNELS``.
        only_size: Every fused step has so many rows and serves any length, so that a row has the
            same bits in any company. None takes the smallest size that holds the batch.
        compiled: Gives compiled layers for the plain step, and what to tell people; None where
            they are not wanted.
    """
    decoder = replace(decoder, attention=MaskedAttention)
    reason = _why_not_fused(model) if is_fused else None
    notes = (f"FUSED_KERNELS: the plain decode step is used, since {reason}",) if reason else ()
    if reason or not is_fused:
        if compiled is not None:
            ops, compiled_notes = compiled()
            decoder, notes = replace(decoder, ops=ops), notes + compiled_notes
        steps = BoundSteps(_plain_maker(decoder), decoder, room)
        return CardStep(steps.run, steps.warm_up, notes=notes)
    why_no_batch = _why_not_batch(decoder, model) if is_batch else "they are off"
    sizes = CARD_BATCH_SIZES if only_size is None else (only_size,)
    is_int8 = has_int8(model)
    resident = resident_sizes(only_size, is_batch=why_no_batch is None, is_int8=is_int8)
    why_not = _why_not_resident(decoder, model, resident) if is_resident else "they are off"
    if _capability(decoder) == HOPPER:
        if is_resident and why_not:
            notes += (f"RESIDENT_KERNELS: a kernel a layer is used, since {why_not}",)
        if is_batch and why_no_batch:
            notes += (f"BATCH_KERNELS: Triton's are used, since {why_no_batch}",)
    if compiled is not None:
        notes += (not_compiled(DECODE_LAYERS),)
    resident_rows, batch_rows = rows_of_kinds(
        only_size, is_resident=why_not is None, is_batch=why_no_batch is None, is_int8=is_int8
    )
    steps = BoundSteps(
        _fused_maker(decoder, model, resident_rows, batch_rows), decoder, room, _compile_chains,
        batch_sizes=sizes, boundless_rows=max(resident_rows, only_size or 0),
        num_runs=RUNS_OF_OWN_KERNELS,
    )  # fmt: skip
    return CardStep(steps.run, steps.warm_up, sizes, notes, resident_rows, lands_codes=True)


class BoundSteps:
    """One bound step per batch size and length bound.

    Args:
        make: Binds a step to a tensor of slot numbers.
        decoder: Whose slots they are.
        room: Where the bound steps are captured; None leaves them as they are.
        compile_ahead: Compiles what bound steps start, without starting it.
        batch_sizes: Of the steps that are made, rising.
        boundless_rows: Steps of up to so many rows serve any length.
        num_runs: Of a step before it is captured.
    """

    def __init__(
        self,
        make: Callable[[Tensor, StepPlan], Callable[[], Tensor]],
        decoder: FrameDecoder,
        room: GraphRoom | None,
        compile_ahead: Callable[[list[Callable[[], Tensor]]], None] = lambda _: None,
        *,
        batch_sizes: tuple[int, ...] = CARD_BATCH_SIZES,
        boundless_rows: int = 0,
        num_runs: int = RUNS_BEFORE_CAPTURE,
    ) -> None:
        self._num_runs = num_runs
        self._batch_sizes = batch_sizes
        self._boundless_rows = boundless_rows
        self._make = make
        self._store = decoder.store
        self._room = room
        self._compile_ahead = compile_ahead
        self._steps: dict[tuple[int, int], tuple[Tensor, Callable[[], Tensor]]] = {}
        """By rows and bound."""
        self._given: dict[tuple[int, int], Tensor] = {}
        """The slots that each step was last run for."""

    @property
    def num_steps(self) -> int:
        """Steps that have been made."""
        return len(self._steps)

    def run(self, slot_ids: Tensor, plan: StepPlan) -> Tensor:
        """As ``FrameDecoder.step``. The codes are valid until the next run of any step.

        Who gives the same ``slot_ids`` again must have left its numbers as they were.
        """
        key = self._key(slot_ids.shape[0], plan.length_bound)
        if key not in self._steps:
            ids, step = self._bind(key)
            self._steps[key] = ids, self._captured(step)
        ids, step = self._steps[key]
        if self._given.get(key) is not slot_ids:
            ids.copy_(slot_ids, non_blocking=True)
            self._given[key] = slot_ids
        return step()[: plan.num_rows]

    def warm_up(self, max_rows: int) -> None:
        """Make the steps of all batch sizes up to the one that holds ``max_rows``."""
        keys = keys_of(max_rows, self._store.max_positions, self._batch_sizes, self._boundless_rows)
        made = {key: self._bind(key) for key in keys if key not in self._steps}
        self._compile_ahead([step for _, step in made.values()])
        for key, (ids, step) in made.items():
            self._steps[key] = ids, self._captured(step)

    def _key(self, num_rows: int, bound: int) -> tuple[int, int]:
        return _key_of(num_rows, bound, self._store.max_positions, self._boundless_rows)

    def _bind(self, key: tuple[int, int]) -> tuple[Tensor, Callable[[], Tensor]]:
        ids = self._store.lengths.new_full((key[0],), self._store.scratch_slot)
        return ids, self._make(ids, StepPlan(*key))

    def _captured(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        # every row is the scratch slot, so no sequence is touched
        return step if self._room is None else captured(step, self._room, self._num_runs)


def _plain_maker(decoder: FrameDecoder) -> Callable[[Tensor, StepPlan], Callable[[], Tensor]]:
    def make(slot_ids: Tensor, plan: StepPlan) -> Callable[[], Tensor]:
        return lambda: decoder.step(slot_ids, plan)

    return make


def _fused_maker(
    decoder: FrameDecoder, model: DualAR, resident_rows: int, batch_rows: int
) -> Callable[[Tensor, StepPlan], Callable[[], Tensor]]:
    from backend.engine.batch_step import BatchStep
    from backend.engine.fused_step import FusedStep
    from backend.engine.resident_step import ResidentStep

    capability = _capability(decoder)
    has_pdl = capability >= HOPPER
    parts = (model, decoder.sizes, decoder.store, decoder.state)

    def make(slot_ids: Tensor, plan: StepPlan) -> Callable[[], Tensor]:
        if plan.num_rows <= resident_rows:
            return ResidentStep(*parts, slot_ids, has_pdl=has_pdl).run
        kind = BatchStep if 1 < plan.num_rows <= batch_rows else FusedStep
        return kind(
            *parts, slot_ids, plan.length_bound, has_pdl=has_pdl, is_hopper=capability == HOPPER
        ).run

    return make


def _compile_chains(steps: list[Callable[[], Tensor]]) -> None:
    """Compile what chains of Triton kernels start; steps of another kind are left alone."""
    from backend.engine.batch_step import BatchStep
    from backend.engine.fused_step import FusedStep
    from backend.engine.kernels.launch import compile_ahead

    chains = (FusedStep, BatchStep)
    compile_ahead(step for step in steps if type(getattr(step, "__self__", None)) in chains)


def has_int8(model: DualAR) -> bool:
    """Whether the layers' weights are int8."""
    first: TransformerBlock = model.layers[0]  # pyright: ignore[reportAssignmentType]
    return weights_of(first.attention.wqkv).is_int8


def _capability(decoder: FrameDecoder) -> tuple[int, int]:
    return torch.cuda.get_device_capability(decoder.store.lengths.device)


def _why_not_resident(
    decoder: FrameDecoder, model: DualAR, batch_sizes: tuple[int, ...]
) -> str | None:
    from backend.engine.resident_step import why_not_resident

    return why_not_resident(model, decoder.sizes, decoder.store, batch_sizes)


def _why_not_batch(decoder: FrameDecoder, model: DualAR) -> str | None:
    from backend.engine.batch_step import why_not_batch

    return why_not_batch(model, decoder.sizes.num_residual, decoder.store.lengths.device)


def _why_not_fused(model: DualAR) -> str | None:
    from backend.engine.card_kernels import why_no_kernels  # it asks about prompts as well

    reason = why_no_kernels(model.embeddings.weight.device)
    if reason is not None:
        return reason
    from backend.engine.fused_step import why_not_fused

    return why_not_fused(model)
