"""Encoding one recording as CUDA graphs, one for each length of a chunk.

A chunk is some 700 kernels; started one by one from Python they take twice as long as they run. A
recording is cut into chunks of the longest length, and the rest into the shortest length that holds
it: silence behind it, which changes no code before. What the chunks hand on lies in one state, so
the graphs can follow each other in any order.

A capture takes a good part of a second. Graphs are captured while nobody waits, the longest first:
as long as a shorter one is missing, a rest runs in the next longer one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch

from backend.models.codec.transformer import WindowTransformer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from backend.engine.capture import GraphRoom
    from backend.models.codec.codec import Codec

    Replay: TypeAlias = Callable[[], Tensor | None]

_log = logging.getLogger(__name__)

CHUNK_FRAMES = (32, 64, 96, 128, 160, 192, 224, 256)
"""Frames of the chunks that get a graph: 10 s of S1-mini are 216 frames, 256 keep a card busy."""
MOST_FRAMES = 4096
"""Frames of the longest recording that runs in graphs (190 s of S1-mini): they hold the addresses
of rotary tables with room for so many."""


class Capture(Protocol):
    """Makes a replay of a step that takes nothing and reads nothing on the host."""

    def __call__(self, step: Callable[[], Tensor | None], /) -> Replay:
        """Bind ``step`` to the tensors it works on; what it gives is valid until the next replay.

        Raises:
            torch.OutOfMemoryError: There is no room for its intermediate results.
        """
        ...


class EncodeCapture:
    """Captures steps on one card, in the room of all its graphs."""

    def __init__(self, room: GraphRoom) -> None:
        self._room = room

    def __call__(self, step: Callable[[], Tensor | None], /) -> Replay:
        """Run ``step``, then capture it."""
        graph, codes = self._room.capture(step)

        def replay() -> Tensor | None:
            graph.replay()
            return codes

        return replay


@dataclass(frozen=True, slots=True)
class _Bound:
    """A replay for chunks of one length, and its input ``[1, S]``."""

    frames: int
    samples: Tensor
    replay: Replay


class EncodeGraphs:
    """Encodes single recordings through replays of fixed lengths.

    Args:
        codec: With its encoding half; its device is where everything runs.
        capture: Makes replays; on a card ``EncodeCapture``.
    """

    def __init__(self, codec: Codec, capture: Capture) -> None:
        self._codec, self._capture = codec, capture
        self._length = codec.frame_length
        self._tables = _reserve_tables(codec, MOST_FRAMES)
        """Kept, since a longer recording makes a module take another table."""
        self._state = codec.new_encode_state(1)
        for attention in self._state.attentions:
            attention.lengths = None  # counted on the device alone
        on_card = codec.device.type == "cuda"
        self._staging = torch.zeros(CHUNK_FRAMES[-1] * self._length, pin_memory=on_card)
        self._bound: dict[int, _Bound | None] = {}
        """By frames; None where memory did not suffice."""
        self._reset: Replay | None = None

    @property
    def num_graphs(self) -> int:
        """Lengths of chunks that have a replay."""
        return sum(bound is not None for bound in self._bound.values())

    @torch.inference_mode()
    def prepare_one(self) -> bool:
        """Capture the longest chunk that was not tried yet; False when there is none."""
        missing = [frames for frames in CHUNK_FRAMES if frames not in self._bound]
        if not missing:
            return False
        self._bound[missing[-1]] = self._captured(missing[-1])
        return True

    def can_encode(self, num_samples: int) -> bool:
        """Whether graphs exist for a recording of ``num_samples``."""
        frames = -(-num_samples // self._length)
        return frames <= MOST_FRAMES and self._chunks_of(frames) is not None

    @torch.inference_mode()
    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` samples into codes ``[K, F]``, ``F = ceil(S / frame_length)``.

        Raises:
            ValueError: ``can_encode`` is false for so many samples.
        """
        frames = -(-len(samples) // self._length)
        chunks = self._chunks_of(frames) if frames <= MOST_FRAMES else None
        if chunks is None or self._reset is None:
            raise ValueError(f"there are no graphs for a recording of {frames} frames")
        self._reset()
        codes: list[NDArray[np.int32]] = []
        start = 0
        for bound in chunks:
            codes.append(self._chunk(bound, samples[start : start + bound.samples.shape[1]]))
            start += bound.samples.shape[1]
        return np.concatenate(codes, axis=1)[:, :frames]

    def _chunks_of(self, frames: int) -> list[_Bound] | None:
        """Give the replays that take a recording one after another, or None."""
        ready = [bound for size in CHUNK_FRAMES if (bound := self._bound.get(size)) is not None]
        if not ready:
            return None
        longest = ready[-1]
        num_whole, rest = divmod(frames, longest.frames)
        chunks = [longest] * num_whole
        if rest:
            chunks.append(next(bound for bound in ready if bound.frames >= rest))
        return chunks

    def _chunk(self, bound: _Bound, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        staged = self._staging[: bound.samples.shape[1]]
        staged[: len(samples)] = torch.from_numpy(samples)
        staged[len(samples) :] = 0.0
        bound.samples[0].copy_(staged, non_blocking=True)
        codes = bound.replay()
        assert codes is not None
        return codes[0].cpu().numpy()  # waits, so the staging memory is free again

    def _captured(self, frames: int) -> _Bound | None:
        samples = torch.zeros(1, frames * self._length, device=self._codec.device)
        try:
            if self._reset is None:
                self._reset = self._capture(self._state.reset)
            replay = self._capture(
                lambda: self._codec.encode_stream(samples, self._state).to(torch.int32)
            )
        except torch.OutOfMemoryError:
            _log.warning(
                "no memory for a CUDA graph of the encoder (%d frames): such recordings are "
                "encoded in shorter chunks, or eagerly; use fewer MAX_SLOTS, ENCODER_ON_HOST=true "
                "or CUDA_GRAPHS=false",
                frames,
            )
            return None
        return _Bound(frames, samples, replay)


def _reserve_tables(codec: Codec, num_frames: int) -> list[Tensor]:
    """Make room for recordings of ``num_frames`` in each transformer; gives the tables."""
    assert codec.encoder is not None
    rates: dict[nn.Module | None, int] = {codec.quantizer.pre_module: 1}
    rate = codec.frame_length
    for stride, block in zip(codec.config.encoder_rates, codec.encoder.block[1:], strict=False):
        rate //= stride
        rates |= dict.fromkeys(block.modules(), rate)
    return [
        module.rotary.reserve(num_frames * rate, codec.device)
        for module, rate in rates.items()
        if isinstance(module, WindowTransformer)
    ]
