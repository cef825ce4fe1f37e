"""Codes to samples for many streams at once: who is decoded together, in which pieces.

The codec's state of every slot lies in one pool. A call brings the next frames of several slots;
they are cut into pieces of at most ``CHUNK_SIZE`` frames, streams whose pieces are equally long are
decoded as one batch, and a stream's samples depend neither on the cuts nor on its company.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.engine.codec_batches import Batch, Piece, StepInput
from backend.engine.codec_graphs import CodecGraphs
from backend.engine.codec_steps import FusedSteps, PlainSteps
from backend.engine.lanes import FramesInWork, lane_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.contract import FrameChunk
    from backend.engine.codec_graphs import Capture
    from backend.engine.codec_steps import CodecSteps
    from backend.engine.lanes import Lane
    from backend.models.codec.codec import Codec
    from backend.models.codec.fused.decoder import FusedDecoder

FIRST_FRAMES = 2
"""Pieces of a stream's beginning: graphs of all batch sizes are there from the start."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that get a CUDA graph; a batch between two of them is filled with the scratch row."""
FRAME_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Frames of a piece under CUDA graphs: the ramp of a stream's chunks, and what whole files take."""
MOST_FILLING = 1 / 3
"""Share of a batch that may be filling, where pieces may be filled up: more is cheaper in two."""
MOST_FRAMES_AT_ONCE = 128
"""Frames of all streams of a batch together. The last layers of S1-mini hold 96 channels a sample:
128 frames are 50 MB a tensor in half precision, and a large card is busy with them."""
CHUNKS_AT_ONCE = 4
"""The same in chunks of full size, so that a smaller ``CHUNK_SIZE`` needs less memory."""
FUSED_BATCHES = 2
"""Times as many frames are together in fused kernels, where there are more slots than fill a batch
with a usual chunk each: they hold fewer tensors than the codec's modules. On an H200 a frame took
21.0 us with 32 streams x 8 frames, 23.3 us with 16 x 8, 21.0 us with 64 x 8."""
USUAL_FRAMES = 8
"""Of each stream in a call where many are heard."""
MOST_FRAMES_ON_CPU = 32
"""Together on a CPU, where more than fits its caches is slower: pocket voice, one core, a frame of
4 streams x 16 frames took 3.8 ms, of 2 x 16 or 4 x 8 frames 3.0 ms."""
FIRST_POSITIONS = 8192
"""Frames of a stream there is room for from the beginning (six minutes of S1-mini); longer streams
make the table grow."""


def most_frames_together(max_frames: int) -> int:
    """Frames of all streams of a batch of the codec's modules, a stream having ``max_frames``."""
    return min(MOST_FRAMES_AT_ONCE, CHUNKS_AT_ONCE * max_frames)


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How calls are cut.

    Attributes:
        max_frames: Longest piece.
        batching: Whether streams are decoded together.
        fixed_lengths: Whether pieces have lengths of ``FRAME_BUCKETS`` only.
        most_frames: Most frames of all streams of a batch together, unless one piece is longer.
        filling: Whether a batch may hold shorter pieces than its longest.
    """

    max_frames: int
    batching: bool = True
    fixed_lengths: bool = False
    most_frames: int = MOST_FRAMES_AT_ONCE
    filling: bool = False

    def batches(self, lengths: Sequence[int]) -> Iterator[list[Piece]]:
        """Cut streams of ``lengths`` frames; the pieces of a stream come in their order.

        Yields:
            Pieces of different streams, of equal length unless they may be filled up.
        """
        done = [0] * len(lengths)
        while True:
            groups: dict[int, list[Piece]] = {}
            for idx, (start, length) in enumerate(zip(done, lengths, strict=True)):
                if start < length:
                    size = self._piece_length(length - start)
                    frames = self.frames_of(size)
                    groups.setdefault(frames, []).append(Piece(idx, start, start + size))
                    done[idx] = start + size
            if not groups:
                return
            for frames, pieces in groups.items():
                most = self._most_streams(frames)
                for first in range(0, len(pieces), most):
                    yield pieces[first : first + most]

    def frames_of(self, size: int) -> int:
        """Frames that a piece of ``size`` has once it is filled up."""
        return _bucket_of(size) if self.filling else size

    def sizes(self, num_slots: int) -> list[tuple[int, int]]:
        """Give every pair of batch bucket and piece that ``num_slots`` streams can need."""
        pairs: list[tuple[int, int]] = []
        for frames in FRAME_BUCKETS:
            most = min(num_slots, self._most_streams(frames))
            largest = next(bucket for bucket in BATCH_BUCKETS if bucket >= most)
            if frames <= self.max_frames:
                pairs += [(bucket, frames) for bucket in BATCH_BUCKETS if bucket <= largest]
        return pairs

    def _piece_length(self, remaining: int) -> int:
        longest = min(remaining, self.max_frames)
        bucket = _bucket_of(longest)
        if self.filling and bucket <= self.max_frames and longest >= (1 - MOST_FILLING) * bucket:
            return longest
        if not (self.fixed_lengths or self.filling):
            return longest
        return FRAME_BUCKETS[bisect_right(FRAME_BUCKETS, longest) - 1]

    def _most_streams(self, size: int) -> int:
        if not self.batching:
            return 1
        return max(1, min(BATCH_BUCKETS[-1], self.most_frames // size))


def fused_plan(max_frames: int, num_slots: int, *, batching: bool, has_graphs: bool) -> DecodePlan:
    """How calls of the fused decoder are cut."""
    longest = most_frames_together(max_frames)  # of one stream
    is_crowd = num_slots * USUAL_FRAMES > MOST_FRAMES_AT_ONCE
    most_frames = FUSED_BATCHES * longest if is_crowd else longest
    return DecodePlan(longest, batching, has_graphs, most_frames, filling=True)


def _bucket_of(frames: int) -> int:
    """Give the smallest of ``FRAME_BUCKETS`` that holds ``frames``, or the largest."""
    return FRAME_BUCKETS[min(bisect_left(FRAME_BUCKETS, frames), len(FRAME_BUCKETS) - 1)]


@lru_cache(maxsize=64)
def _batches_of(plan: DecodePlan, lengths: tuple[int, ...]) -> tuple[Batch, ...]:
    """How a call of streams with ``lengths`` frames is decoded."""
    starts = (0, *accumulate(lengths))
    found: list[Batch] = []
    for pieces in plan.batches(lengths):
        longest = max(piece.stop - piece.start for piece in pieces)
        found.append(Batch.of(pieces, plan.frames_of(longest), starts))
    return tuple(found)


class StreamDecoder:
    """The codec's decoding half over a fixed number of slots.

    Args:
        codec: Weights; its device is where everything runs.
        num_slots: Slots 0.. that can be decoded.
        max_frames: Most frames of one stream in one go (``CHUNK_SIZE``).
        batching: Whether slots are decoded together (``CODEC_BATCHING``).
        capture: Makes CUDA graphs of the step (``CUDA_GRAPHS``), or None for the eager path.
        fused: The same codec in fused operations (``CODEC_FUSED``), or None for its modules.
        lane: Where the device works (``NUM_STREAMS``); None: with everything else.
    """

    def __init__(
        self,
        codec: Codec,
        num_slots: int,
        max_frames: int,
        *,
        batching: bool = True,
        capture: Capture | None = None,
        fused: FusedDecoder | None = None,
        lane: Lane | None = None,
    ) -> None:
        self._codec = codec
        self._device = codec.device
        self._lane = lane or lane_of(self._device)
        self._steps: CodecSteps
        if fused is None:
            self._steps = PlainSteps(codec, num_slots + 1)
            is_bound_by_caches = self._device.type == "cpu" and capture is None
            most_frames = most_frames_together(max_frames)
            if is_bound_by_caches:
                most_frames = min(MOST_FRAMES_ON_CPU, most_frames)
            self._plan = DecodePlan(max_frames, batching, capture is not None, most_frames)
        else:
            self._steps = FusedSteps(fused, num_slots + 1)
            self._plan = fused_plan(
                max_frames, num_slots, batching=batching, has_graphs=capture is not None
            )
        self._frames: dict[int, int] = {}
        """Frames decoded so far of each open slot."""
        self._num_slots = num_slots
        self._num_positions = FIRST_POSITIONS
        codec.reserve_positions(FIRST_POSITIONS)
        self._graphs: CodecGraphs | None = None
        if capture is not None:
            self._graphs = CodecGraphs(
                self._steps, codec.num_codebooks, num_slots, BATCH_BUCKETS, self._device, capture
            )
        self._lane.catch_up()

    @property
    def state_bytes(self) -> int:
        """Memory of the carried state."""
        return self._steps.pool.num_bytes

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture the ramp of one stream and the beginnings of many; put the other sizes off.

        Kernels are compiled for all of them.
        """
        self._lane.catch_up()
        self._steps.make_ready(self._plan.sizes(self._num_slots))
        if self._graphs is None:
            return
        for batch, frames in self._plan.sizes(self._num_slots):
            if batch == 1 or frames <= FIRST_FRAMES:
                self._graphs.prepare(batch, frames)
            else:
                self._graphs.put_off(batch, frames)

    @torch.inference_mode()
    def prepare_one(self) -> bool:
        """Capture one of the sizes that were put off; False when there is none."""
        return self._graphs is not None and self._graphs.prepare_one()

    def open(self, slot: int) -> None:
        """Begin a stream in ``slot``. ``decode`` does so by itself for a slot not yet open.

        Raises:
            ValueError: There is no such slot.
        """
        if not 0 <= slot < self._num_slots:
            raise ValueError(f"slot {slot} is not one of 0..{self._num_slots - 1}")
        with self._lane.working():
            self._steps.pool.reset_row(slot)
        self._frames[slot] = 0

    def release(self, slot: int) -> None:
        """End the stream of ``slot``, if one is open: the next one there begins anew."""
        self._frames.pop(slot, None)

    @torch.inference_mode()
    def decode(self, chunks: Sequence[FrameChunk]) -> list[NDArray[np.float32]]:
        """Turn the next frames of several slots, one chunk a slot, into samples.

        Returns:
            ``[F * frame_length]`` float32 in -1..1 for each chunk, in their order.

        Raises:
            ValueError: Codes have a wrong shape, or a slot occurs twice or does not exist.
        """
        return self.begin(chunks).collect()

    @torch.inference_mode()
    def begin(self, chunks: Sequence[FrameChunk]) -> FramesInWork:
        """Queue the work of ``decode`` in the codec's lane and go on: as ``decode`` otherwise.

        More may be begun, and slots released and taken anew, before the samples are collected: the
        lane keeps the order.
        """
        with self._lane.working():
            begin = self._lane.mark()
            samples = self._queue(chunks)
            return FramesInWork(samples, begin, self._lane.mark())

    def _queue(self, chunks: Sequence[FrameChunk]) -> list[NDArray[np.float32]]:
        """Start everything; the arrays given are filled when the lane has got there."""
        slots, lengths = self._opened(chunks)
        codes, rows = [chunk.codes for chunk in chunks], np.array(slots)
        frame_length, is_pinned = self._codec.frame_length, self._device.type == "cuda"
        on_host = torch.empty(sum(lengths), frame_length, pin_memory=is_pinned)
        for batch in _batches_of(self._plan, lengths):
            given = self._input_for(batch)
            batch.write(codes, rows, given)
            batch.fetch(self._run(given).unflatten(1, (-1, frame_length)), on_host)
        for slot, length in zip(slots, lengths, strict=True):
            self._frames[slot] += length
        heard = on_host.view(-1).numpy()
        ends = accumulate(lengths, initial=0)
        return [heard[a * frame_length : b * frame_length] for a, b in pairwise(ends)]

    def _opened(self, chunks: Sequence[FrameChunk]) -> tuple[list[int], tuple[int, ...]]:
        """Check everything before any stream moves, open what is new; give slots and lengths."""
        slots = [chunk.slot for chunk in chunks]
        shapes = [chunk.codes.shape for chunk in chunks]
        if len(set(slots)) < len(slots):
            raise ValueError("a slot occurs twice in one call")
        num_codebooks = self._codec.num_codebooks
        for shape in set(shapes):
            if len(shape) != 2 or shape[0] != num_codebooks:
                raise ValueError(f"codes must be [{num_codebooks}, F > 0], got {list(shape)}")
            if shape[1] == 0:
                raise ValueError(f"codes must be [{num_codebooks}, F > 0], got no frames")
        for slot in slots:
            if slot not in self._frames:
                self.open(slot)
        lengths = tuple([shape[1] for shape in shapes])
        if slots:  # no stream gets longer than that
            self._reserve(max(map(self._frames.__getitem__, slots)) + max(lengths))
        return slots, lengths

    def _reserve(self, num_positions: int) -> None:
        """Make room for streams of so many frames."""
        if num_positions > self._num_positions:
            self._num_positions = num_positions
            if self._codec.reserve_positions(num_positions) and self._graphs is not None:
                self._graphs.clear()

    def _input_for(self, batch: Batch) -> StepInput:
        num_rows, num_frames = len(batch.pieces), batch.num_frames
        if self._graphs is not None:
            return self._graphs.input_for(num_rows, num_frames)
        return StepInput.new(num_rows, self._codec.num_codebooks, num_frames, self._device)

    def _run(self, given: StepInput) -> Tensor:
        """Decode one batch; the samples are valid until the next."""
        if self._graphs is not None:
            return self._graphs.run(given)
        return self._steps(*given.on(self._device))
