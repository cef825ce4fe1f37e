"""All rendered speech in the device's memory, cropped there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scripts.pocket.render import LABEL_HOP, RATE_HZ
from scripts.pocket.shards import complete_shards

if TYPE_CHECKING:
    from pathlib import Path


class SpeechStore:
    """Shards end to end on the device; the first one is kept for validation.

    Every utterance is a whole number of labels long, so a crop may start at any label.
    """

    def __init__(self, folder: Path, device: torch.device, capacity_hours: float) -> None:
        self._folder, self._device = folder, device
        self._num_labels = int(capacity_hours * 3600 * RATE_HZ) // LABEL_HOP
        self._seen: set[Path] = set()
        self._filled = 0
        self._pcm = torch.zeros(0, dtype=torch.int16)
        self._labels = torch.zeros(0, dtype=torch.uint8)
        self._held_pcm, self._held_labels = self._pcm, self._labels

    @property
    def hours(self) -> float:
        """Audio that is here for training."""
        return self._filled * LABEL_HOP / RATE_HZ / 3600

    def refresh(self) -> None:
        """Take in shards that have been finished since the last call, as far as they fit."""
        for path in complete_shards(self._folder):
            if path in self._seen:
                continue
            pcm = torch.from_numpy(np.fromfile(path.with_suffix(".pcm"), np.int16))
            labels = torch.from_numpy(np.fromfile(path.with_suffix(".ph"), np.uint8))
            if not self._seen:
                self._held_pcm, self._held_labels = pcm.to(self._device), labels.to(self._device)
                size, device = self._num_labels, self._device
                self._pcm = torch.zeros(size * LABEL_HOP, dtype=torch.int16, device=device)
                self._labels = torch.zeros(size, dtype=torch.uint8, device=device)
            elif self._filled + len(labels) <= self._num_labels:
                start, stop = self._filled, self._filled + len(labels)
                self._pcm[start * LABEL_HOP : stop * LABEL_HOP] = pcm.to(self._device)
                self._labels[start:stop] = labels.to(self._device)
                self._filled = stop
            self._seen.add(path)

    def crops(self, count: int, num_labels: int) -> tuple[Tensor, Tensor]:
        """Random crops: samples ``[count, 1, num_labels * 160]`` float32 and labels."""
        start = torch.randint(self._filled - num_labels, (count, 1), device=self._device)
        gain = torch.empty(count, 1, 1, device=self._device).uniform_(0.6, 1.25)
        samples, labels = self._gather(self._pcm, self._labels, start, num_labels)
        return (samples * gain).clamp(-1, 1), labels

    def held_crops(self, count: int, num_labels: int) -> tuple[Tensor, Tensor]:
        """The same evenly spread crops of the held-out shard each time."""
        last = len(self._held_labels) - num_labels
        start = torch.linspace(0, last, count, device=self._device).long()[:, None]
        return self._gather(self._held_pcm, self._held_labels, start, num_labels)

    def _gather(
        self, pcm: Tensor, labels: Tensor, start: Tensor, num_labels: int
    ) -> tuple[Tensor, Tensor]:
        index = start + torch.arange(num_labels, device=self._device)
        rows = pcm.view(-1, LABEL_HOP)[index].flatten(1)
        return rows[:, None].float() / 32768, labels[index].long()


def read_items(path: Path) -> list[tuple[int, int, int, str]]:
    """A shard's utterances: first sample, samples, speaker, text."""
    items = json.loads(path.read_text(encoding="utf-8"))
    return [(offset, count, speaker, text) for offset, count, _, _, speaker, text in items]
