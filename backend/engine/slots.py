"""The room of a sequence: what the host knows of each slot, and what the device keeps for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from backend.core.errors import GenerationError
from backend.engine.compute import CARD_BATCH_SIZES
from backend.engine.noise import seed_word
from backend.engine.sampling import RowSampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.types import SamplingParams

MAX_REPETITION_WINDOW = 64
"""Most frames that can count as recent; every slot keeps this many."""


class SlotState:
    """What the decode step reads and writes of every slot, in batched tensors.

    The last slot is scratch: rows that only fill up a batch work on it.

    Attributes:
        pending: ``[S + 1, 1 + K]`` int64, the row that the slow transformer reads next: the
            prompt's last one, later the frame drawn last.
        recent: ``[S + 1, K, W]`` int64, codes of the last frames, newest last, -1 for none.
        window: ``[S + 1]`` int64, how many of them count.
        seeds: ``[S + 1]`` int64.
        steps: ``[S + 1]`` int64, steps made, those that ended included.
        min_steps: ``[S + 1]`` int64, steps in which a sequence cannot end.
        sampling: A row for each slot.
        landing: ``[P, K]`` int64 in the host, where a card's fused step leaves the codes of up to P
            rows; they are there when the step has ended.
    """

    def __init__(self, num_slots: int, num_codebooks: int, device: torch.device) -> None:
        size = num_slots + 1

        def integers(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        self.pending = integers(size, 1 + num_codebooks)
        self.recent = integers(size, num_codebooks, MAX_REPETITION_WINDOW).fill_(-1)
        self.window = integers(size)
        self.seeds = integers(size)
        self.steps = integers(size)
        self.min_steps = integers(size)
        self.sampling = RowSampling.empty(size, device)
        on_card = device.type == "cuda"
        self.landing = torch.zeros(
            CARD_BATCH_SIZES[-1], num_codebooks, dtype=torch.int64,
            device="cpu" if on_card else device, pin_memory=on_card,
        )  # fmt: skip

    def begin(self, slot: int, last_row: Tensor, sampling: SamplingParams) -> None:
        """Set a slot up behind a prompt.

        Args:
            slot: Whose prompt but its last row is in the store.
            last_row: ``[1 + K]`` int64, on any device.
            sampling: How codes are drawn.

        Raises:
            GenerationError: The repetition window is larger than what is kept.
        """
        if not 0 <= sampling.repetition_window <= MAX_REPETITION_WINDOW:
            raise GenerationError(
                f"repetition_window {sampling.repetition_window} must be 0..{MAX_REPETITION_WINDOW}"
            )
        self.pending[slot] = last_row.to(self.pending.device)
        self.recent[slot] = -1
        self.window[slot] = sampling.repetition_window
        self.seeds[slot] = seed_word(sampling.seed)
        self.steps[slot] = 0
        self.min_steps[slot] = sampling.min_new_tokens
        self.sampling.set_row(slot, sampling)

    def replace_frame(self, slot: int, codes: NDArray[np.int32], semantic_begin_id: int) -> None:
        """Put ``codes`` ``[K]`` in the place of the frame drawn last."""
        frame = torch.from_numpy(codes).to(self.pending)
        self.pending[slot] = torch.cat((frame[:1] + semantic_begin_id, frame))
        self.recent[slot, :, -1] = frame

    def recent_of(self, slot_ids: Tensor) -> Tensor:
        """Codes ``[B, K, W]`` that count as recent, -1 elsewhere."""
        age = torch.arange(MAX_REPETITION_WINDOW, 0, -1, device=slot_ids.device)
        counts = age <= self.window[slot_ids][:, None]
        return torch.where(counts[:, None], self.recent[slot_ids], -1)


@dataclass(slots=True)
class Slot:
    """What the host knows of one sequence.

    Attributes:
        sampling: How codes are drawn; None in a slot opened for the codec alone.
        num_frames: Frames drawn.
    """

    sampling: SamplingParams | None = None
    num_frames: int = 0

    def clear(self) -> None:
        """Forget the sequence."""
        self.sampling = None
        self.num_frames = 0


@dataclass(slots=True)
class SlotPool:
    """Slots, made when first needed and kept.

    Attributes:
        max_slots: Most there can be.
        num_changes: Times that a slot was taken or freed.
    """

    max_slots: int
    num_changes: int = 0
    _taken: dict[int, Slot] = field(default_factory=dict[int, Slot])
    _free: dict[int, Slot] = field(default_factory=dict[int, Slot])

    def take(self) -> int:
        """Take a free slot.

        Raises:
            GenerationError: All are taken; the scheduler must not let this happen.
        """
        if self._free:
            slot_idx, slot = self._free.popitem()  # the one freed last
        elif len(self._taken) < self.max_slots:
            slot_idx, slot = len(self._taken), Slot()
        else:
            raise GenerationError(f"all {self.max_slots} slots are taken")
        self._taken[slot_idx] = slot
        self.num_changes += 1
        return slot_idx

    def give_back(self, slot_idx: int) -> None:
        """Free a slot that was taken."""
        slot = self[slot_idx]
        slot.clear()
        self._free[slot_idx] = self._taken.pop(slot_idx)
        self.num_changes += 1

    def require(self, slots: Sequence[int]) -> None:
        """Refuse slots that are not taken with a ``KeyError``."""
        if not self._taken.keys() >= set(slots):
            for slot_idx in slots:
                self[slot_idx]

    def __getitem__(self, slot_idx: int) -> Slot:
        slot = self._taken.get(slot_idx)
        if slot is None:
            raise KeyError(f"slot {slot_idx} is not taken")
        return slot

    def clear(self) -> None:
        """Free the memory of all slots."""
        self._taken.clear()
        self._free.clear()
        self.num_changes += 1
