"""Rows for the dual-AR's training: utterances of one speaker after another, as prompts are built.

``<|interleave|>`` (``<|speaker:0|>`` text codes ``<|im_end|>``)... fills a row of fixed length.
What stands before an utterance is its voice prompt, so cloning is learned with everything else.
Rows of the default speaker teach what to do without a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scripts.pocket.speakers import DEFAULT_SPEAKER

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

UNKNOWN_VOICE_FRAMES = 8  # frames without loss where nothing has told the voice yet


@dataclass(frozen=True)
class Batch:
    """Training rows.

    Attributes:
        rows: ``[B, T + 1, 1 + K]`` int64 on the device.
        is_judged: ``[B, T + 1]`` bool, whether predicting this column bears loss.
    """

    rows: Tensor
    is_judged: Tensor


class RowStore:
    """Columns on the device and the index of utterances on the host."""

    def __init__(self, folder: Path, device: torch.device, held_out: int, seed: int) -> None:
        self._columns = torch.from_numpy(np.load(folder / "columns.npy")).to(device)
        self._device, self.index = device, np.load(folder / "index.npy")
        self._random = np.random.default_rng(seed)
        fixed = np.random.default_rng(1).permutation(len(self.index))
        held_out = min(held_out, len(self.index) // 20)
        self._held, self._train = fixed[:held_out], fixed[held_out:]
        order = self._train[np.argsort(self.index[self._train, 3], kind="stable")]
        speakers, starts = np.unique(self.index[order, 3], return_index=True)
        groups = np.split(order, starts[1:])
        self._of_speaker = dict(zip(speakers.tolist(), groups, strict=True))

    @property
    def num_columns(self) -> int:
        """Columns of all utterances."""
        return len(self._columns)

    def batch(self, count: int, length: int, default_share: float) -> Batch:
        """``count`` random rows of ``length + 1`` columns."""
        wanted, rng = length + 1, self._random
        index = np.zeros((count, wanted), np.int64)
        judged = np.zeros((count, wanted), bool)
        firsts = rng.choice(self._train, count)
        for row, first in enumerate(firsts):
            speaker = int(self.index[first, 3])
            if rng.random() < default_share and DEFAULT_SPEAKER in self._of_speaker:
                speaker = DEFAULT_SPEAKER
            utterances = rng.choice(self._of_speaker[speaker], 24)
            self._fill(index[row], judged[row], utterances, speaker)
        return self._gather(index, judged)

    def held_rows(self, count: int, length: int) -> Batch:
        """Held-out utterances after one prompt of their speaker; only they bear loss."""
        rng = np.random.default_rng(2)
        index = np.zeros((count, length + 1), np.int64)
        judged = np.zeros((count, length + 1), bool)
        held = [u for u in self._held if int(self.index[u, 3]) in self._of_speaker]
        for row in range(count):
            utterance = held[row % len(held)]
            speaker = int(self.index[utterance, 3])
            prompt = rng.choice(self._of_speaker[speaker])
            self._fill(index[row], judged[row], [prompt, utterance], speaker)
            judged[row, : 1 + self.index[prompt, 1]] = False
        return self._gather(index, judged)

    def _fill(
        self, index: NDArray[np.int64], judged: NDArray[np.bool_],
        utterances: NDArray[np.int64] | list[int], speaker: int,
    ) -> None:  # fmt: skip
        """Column numbers and loss marks of one row; column 0 opens it, the rest is cut."""
        position = 1
        for number, utterance in enumerate(utterances):
            start, count, num_bytes, _ = self.index[utterance]
            taken = min(int(count), len(index) - position)
            index[position : position + taken] = np.arange(start, start + taken)
            spoken = position + 1 + int(num_bytes)
            if number == 0 and speaker != DEFAULT_SPEAKER:
                spoken += UNKNOWN_VOICE_FRAMES
            judged[spoken : position + taken] = True
            position += taken
            if position >= len(index):
                break

    def _gather(self, index: NDArray[np.int64], judged: NDArray[np.bool_]) -> Batch:
        where = torch.from_numpy(index).to(self._device, non_blocking=True)
        rows = self._columns[where].long()
        return Batch(rows, torch.from_numpy(judged).to(self._device, non_blocking=True))
