"""The room of one sequence on the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.core.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from backend.core.types import SamplingParams
    from backend.engine.kv_cache import KVCache


@dataclass(slots=True)
class Slot:
    """All device state of one sequence.

    Attributes:
        kv: Keys and values of the slow transformer.
        sampling: How codes are drawn; None in a slot opened for the codec alone.
        generator: The sequence's own noise.
        hidden: ``[1, dim]``, the slow transformer's last output, before its final norm.
        pending_row: ``[1, 1 + K, 1]``, a frame drawn but not yet read by the slow transformer.
        recent: ``[K, W]`` int64, the last frames for the repetition penalty.
        num_frames: Frames drawn.
    """

    kv: KVCache
    sampling: SamplingParams | None = None
    generator: torch.Generator | None = None
    hidden: Tensor | None = None
    pending_row: Tensor | None = None
    recent: Tensor | None = None
    num_frames: int = 0

    def clear(self) -> None:
        """Forget the sequence, keep the room."""
        self.kv.reset()
        self.sampling = self.generator = None
        self.hidden = self.pending_row = self.recent = None
        self.num_frames = 0


@dataclass(slots=True)
class SlotPool:
    """Slots, made when first needed and kept.

    Attributes:
        max_slots: Most there can be.
        make_kv: Makes the keys and values of one slot.
    """

    max_slots: int
    make_kv: Callable[[], KVCache]
    _slots: dict[int, Slot] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Take a free slot.

        Raises:
            GenerationError: All are taken; the scheduler must not let this happen.
        """
        if not self._free:
            if len(self._slots) >= self.max_slots:
                raise GenerationError(f"all {self.max_slots} slots are taken")
            slot_idx = len(self._slots)
            self._slots[slot_idx] = Slot(self.make_kv())
            return slot_idx
        return self._free.pop()

    def give_back(self, slot_idx: int) -> None:
        """Free a slot that was taken."""
        if slot_idx not in self._slots or slot_idx in self._free:
            raise KeyError(f"slot {slot_idx} is not taken")
        self._slots[slot_idx].clear()
        self._free.append(slot_idx)

    def __getitem__(self, slot_idx: int) -> Slot:
        if slot_idx in self._free:
            raise KeyError(f"slot {slot_idx} is not taken")
        return self._slots[slot_idx]

    def clear(self) -> None:
        """Free the memory of all slots."""
        self._slots.clear()
        self._free.clear()
