"""Codes to samples for many streams at once: who is decoded together, in which pieces.

The codec's state of every slot lies in one pool. A call brings the next frames of several slots;
they are cut into pieces of at most ``CHUNK_SIZE`` frames, streams whose pieces are equally long are
decoded as one batch, and a stream's samples depend neither on the cuts nor on its company.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from backend.engine.codec_graphs import CodecGraphs
from backend.engine.lanes import FramesInWork, lane_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.contract import FrameChunk
    from backend.engine.codec_graphs import Capture
    from backend.engine.lanes import Lane
    from backend.models.codec.codec import Codec
    from backend.models.codec.fused.decoder import FusedDecoder
    from backend.models.codec.fused.state import FusedPool
    from backend.models.codec.state_pool import StatePool

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


class Piece(NamedTuple):
    """Frames of one stream that are decoded in one go.

    Attributes:
        stream: Index of the stream in the call.
        start: First frame.
        stop: End of the frames.
    """

    stream: int
    start: int
    stop: int


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
        return max(size for size in FRAME_BUCKETS if size <= longest)

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
    return next((size for size in FRAME_BUCKETS if size >= frames), FRAME_BUCKETS[-1])


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
        self._steps: _Steps
        if fused is None:
            self._steps = _PlainSteps(codec, num_slots + 1)
            is_bound_by_caches = self._device.type == "cpu" and capture is None
            most_frames = most_frames_together(max_frames)
            if is_bound_by_caches:
                most_frames = min(MOST_FRAMES_ON_CPU, most_frames)
            self._plan = DecodePlan(max_frames, batching, capture is not None, most_frames)
        else:
            self._steps = _FusedSteps(fused, num_slots + 1)
            self._plan = fused_plan(
                max_frames, num_slots, batching=batching, has_graphs=capture is not None
            )
        self._frames: dict[int, int] = {}
        """Frames decoded so far of each open slot."""
        self._num_slots = num_slots
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
        self._open_new(chunks)
        frame_length = self._codec.frame_length
        lengths = [chunk.codes.shape[1] for chunk in chunks]
        starts = np.cumsum([0, *lengths]).tolist()
        on_host = torch.empty(
            starts[-1] * frame_length, pin_memory=self._device.type == "cuda"
        ).view(-1, frame_length)
        for pieces in self._plan.batches(lengths):
            samples = self._run(chunks, pieces).unflatten(1, (-1, frame_length))
            places = [(starts[p.stream] + p.start, starts[p.stream] + p.stop) for p in pieces]
            _copy_rows(samples, places, on_host)
        for chunk, length in zip(chunks, lengths, strict=True):
            self._frames[chunk.slot] += length
        heard = on_host.view(-1).numpy()
        return [heard[a * frame_length : b * frame_length] for a, b in pairwise(starts)]

    def _open_new(self, chunks: Sequence[FrameChunk]) -> None:
        """Check everything before any stream moves; open what is new."""
        num_codebooks = self._codec.num_codebooks
        if len({chunk.slot for chunk in chunks}) < len(chunks):
            raise ValueError("a slot occurs twice in one call")
        for chunk in chunks:
            if chunk.codes.ndim != 2 or chunk.codes.shape[0] != num_codebooks:
                raise ValueError(
                    f"codes must be [{num_codebooks}, F > 0], got {list(chunk.codes.shape)}"
                )
            if chunk.codes.shape[1] == 0:
                raise ValueError(f"codes must be [{num_codebooks}, F > 0], got no frames")
        for chunk in chunks:
            if chunk.slot not in self._frames:
                self.open(chunk.slot)
        longest = max((self._frames[c.slot] + c.codes.shape[1] for c in chunks), default=0)
        if self._codec.reserve_positions(longest) and self._graphs is not None:
            self._graphs.clear()

    def _run(self, chunks: Sequence[FrameChunk], pieces: Sequence[Piece]) -> Tensor:
        """Decode one batch; the samples are valid until the next."""
        sizes = [piece.stop - piece.start for piece in pieces]
        rows = [chunks[piece.stream].slot for piece in pieces]
        shape = (len(pieces), self._codec.num_codebooks, self._plan.frames_of(max(sizes)))
        batch = np.zeros(shape, np.int64)
        for row, piece, size in zip(batch, pieces, sizes, strict=True):
            row[:, :size] = chunks[piece.stream].codes[:, piece.start : piece.stop]
        codes = torch.from_numpy(batch)
        if self._graphs is not None:
            return self._graphs.run(codes, rows, sizes)
        numbers = torch.tensor([rows, sizes], device=self._device)
        return self._steps(codes.to(self._device), numbers[0], numbers[1])


def _copy_rows(samples: Tensor, places: Sequence[tuple[int, int]], on_host: Tensor) -> None:
    """Copy the frames of each row to its place ``(start, stop)``, at once where they adjoin.

    Args:
        samples: ``[B or more, f, frame_length]`` on the device; of a row its first frames count.
        places: Of the first B rows.
        on_host: ``[F, frame_length]``, which the device can write to while the host goes on.
    """
    start, size = places[0][0], places[0][1] - places[0][0]
    if places == [(start + i * size, start + (i + 1) * size) for i in range(len(places))]:
        joined = samples[: len(places), :size]
        on_host[start : places[-1][1]].view_as(joined).copy_(joined, non_blocking=True)
        return
    for row, (first, stop) in zip(samples, places, strict=False):
        on_host[first:stop].copy_(row[: stop - first], non_blocking=True)


class _Steps(Protocol):
    """A codec's streaming step and the streams it goes through."""

    @property
    def pool(self) -> StatePool | FusedPool:
        """The streams."""
        ...

    def __call__(self, codes: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Turn the next frames ``codes [B, K, f]`` of ``rows`` into ``[B, S]`` samples."""
        ...

    def make_ready(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile what these batches and frames need."""
        ...


class _PlainSteps:
    """The step of the codec's modules; all streams of a batch have equally many frames."""

    def __init__(self, codec: Codec, num_rows: int) -> None:
        self._codec = codec
        self.pool = codec.new_pool(num_rows)
        codec.quantizer.fold_lookups()

    def __call__(self, codes: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        if codes.shape[0] == 1 and not codes.is_cuda:  # in place, nothing is copied
            return self._codec.decode_stream(codes, self.pool.row(int(rows[0])))
        return self._codec.decode_rows(codes, self.pool, rows)

    def make_ready(self, sizes: Sequence[tuple[int, int]]) -> None:
        pass


class _FusedSteps:
    """The step of the fused decoder."""

    def __init__(self, fused: FusedDecoder, num_rows: int) -> None:
        self._fused = fused
        self.pool = fused.new_pool(num_rows)

    def __call__(self, codes: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        return self._fused.decode_rows(codes, self.pool, rows, lengths)

    def make_ready(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._fused.compile_for(sizes, self.pool)
