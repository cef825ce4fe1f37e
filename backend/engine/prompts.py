"""How prompts run on this device: fused kernels, graphs of plain PyTorch, or plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.engine.card_kernels import why_no_fused_prompts
from backend.engine.prefill import prefill_rows
from backend.engine.prefill_graphs import PrefillGraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.capture import GraphRoom
    from backend.engine.kv_store import KVStore, SlotKV
    from backend.models.dual_ar import DualAR


class Stretch(NamedTuple):
    """Rows ``[1 + K, T]`` int64 on the host, and the slot they go behind; T may be 0."""

    rows: Tensor
    kv: SlotKV


@dataclass(frozen=True, slots=True)
class PrefillWay:
    """How prompts are run.

    Attributes:
        run_many: Runs stretches, each behind what its slot holds.
        warm_up: Prepares every size.
    """

    run_many: Callable[[Sequence[Stretch]], None]
    warm_up: Callable[[], None]


def choose_prefill(
    model: DualAR, store: KVStore, settings: Settings, room: GraphRoom | None
) -> PrefillWay:
    """Choose fused kernels where they can run, else graphs where there is a room for them."""
    if why_no_fused_prompts(model.config, settings, store.lengths.device) is None:
        from backend.engine.fused_prefill import FusedPrefill

        fused = FusedPrefill(model, store, room)
        return PrefillWay(fused.run_many, fused.warm_up)
    if room is not None:
        graphs = PrefillGraphs(model, store, room)
        return PrefillWay(one_by_one(graphs.run), graphs.warm_up)
    return PrefillWay(one_by_one(lambda rows, kv: prefill_rows(model, rows, kv)), lambda: None)


def one_by_one(run: Callable[[Tensor, SlotKV], None]) -> Callable[[Sequence[Stretch]], None]:
    """Run stretches by a function of one."""

    def run_many(stretches: Sequence[Stretch]) -> None:
        for rows, kv in stretches:
            run(rows, kv)

    return run_many
