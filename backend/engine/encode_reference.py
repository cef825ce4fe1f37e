"""Recordings to codes: the half of the codec that a server needs now and then.

It is over half of S1-mini's codec (0.8 GB in float32), and a server whose voices are all encoded
never needs it: a large one is loaded when the first recording comes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.models.codec.weights import check_codec, load_codec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from backend.models.codec.codec import Codec
    from backend.models.codec.layers import SnakeKernel

_log = logging.getLogger(__name__)
MOST_EAGER_BYTES = 64 * 2**20
"""Weights up to this size are loaded at start."""
_CHUNK_FRAMES = {"cpu": 64, "cuda": 256}
"""Frames of all recordings of a batch that are worked on at a time, by kind of device. The first
layers hold 64 float32 channels per sample: 64 frames of S1-mini are 34 MB a tensor. On a CPU that
is what the caches bear, on a card 256 frames keep it busy."""
_MOST_TOGETHER = 8


class ReferenceEncoder:
    """The codec's encoding half, in float32.

    Args:
        directory: The model.
        device: Where it runs.
        snake: The fused activation, or None.

    Raises:
        CheckpointError: The codec file cannot be read.
        CheckpointMismatchError: Its encoder lacks tensors or has others; they are named. This is
            found here although the weights may be read later.
    """

    def __init__(
        self, directory: Path, device: torch.device, snake: SnakeKernel | None = None
    ) -> None:
        self._directory = directory
        self._device = device
        self._snake = snake
        self.num_bytes = check_codec(directory, "encode")
        self._codec: Codec | None = None
        if self.num_bytes <= MOST_EAGER_BYTES:
            self._load()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._codec is not None

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` float32 samples into codes ``[K, F]``, ``F = ceil(S / frame_length)``.

        Raises:
            ValueError: There are no samples.
            CheckpointError: The weights had to be loaded and have gone.
        """
        [codes] = self.encode_many([samples])
        return codes

    def encode_many(self, recordings: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int32]]:
        """Encode several recordings at once; each gets the codes it gets alone.

        The encoder looks backwards only, so silence behind a shorter recording changes none of its
        codes. (Rounding differs with the batch: of two equally near entries either may be taken.)

        Raises:
            ValueError: A recording is empty or not ``[S]``.
            CheckpointError: The weights had to be loaded and have gone.
        """
        for samples in recordings:
            if samples.ndim != 1 or len(samples) == 0:
                raise ValueError(f"samples must be [S > 0], got {list(samples.shape)}")
        # Neighbors in length go together, so little silence is encoded.
        order = sorted(range(len(recordings)), key=lambda idx: len(recordings[idx]))
        codes: dict[int, NDArray[np.int32]] = {}
        for first in range(0, len(order), _MOST_TOGETHER):
            group = order[first : first + _MOST_TOGETHER]
            codes.update(zip(group, self._encode([recordings[idx] for idx in group]), strict=True))
        return [codes[idx] for idx in range(len(recordings))]

    def _encode(self, recordings: list[NDArray[np.float32]]) -> list[NDArray[np.int32]]:
        codec = self._codec or self._load()
        batch = np.zeros((len(recordings), max(map(len, recordings))), np.float32)
        for row, samples in zip(batch, recordings, strict=True):
            row[: len(samples)] = samples
        chunk_frames = max(1, _CHUNK_FRAMES[self._device.type] // len(recordings))
        on_device = torch.from_numpy(batch).to(self._device)
        codes = codec.encode_reference(on_device, chunk_frames=chunk_frames)
        on_host = codes.to("cpu", torch.int32).numpy()
        frames = [-(-len(samples) // codec.frame_length) for samples in recordings]
        return [row[:, :count].copy() for row, count in zip(on_host, frames, strict=True)]

    def _load(self) -> Codec:
        codec = load_codec(self._directory, self._device, torch.float32, "encode")
        codec.use_snake_kernel(self._snake)
        if self.num_bytes > MOST_EAGER_BYTES:
            _log.info("the codec's encoder is loaded (%d MiB)", self.num_bytes // 2**20)
        self._codec = codec
        return codec
