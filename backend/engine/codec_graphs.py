"""The codec's streaming step as CUDA graphs, one per number of streams and of frames.

A step of one frame is a few hundred small kernels; started one by one from Python they take several
times as long as they run. A graph starts them all at once. It is bound to fixed addresses, so codes
and row numbers are copied into its own input, and the carried state lies in one pool that every
graph reads and writes by row number.

A capture takes a good part of a second, which no listener's buffer bears, so graphs are captured at
warm-up and while the engine is idle, never while it serves: a batch whose own graph is missing runs
in the next larger one, or eagerly, and its size is captured at the next quiet moment. Captures run
with the scratch row, so no stream is touched. All share one memory pool: they never run at the same
time, and each one's samples are copied away before the next one starts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch

from backend.engine.codec_batches import StepInput, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from backend.engine.capture import GraphRoom

    Step: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
    """Codes ``[B, K, f]``, rows and lengths ``[B]`` to samples ``[B, S]``, all on the device."""

_log = logging.getLogger(__name__)
_RUNS_BEFORE_CAPTURE = 3
"""Libraries choose algorithms and take workspaces in their first runs, which a capture forbids."""


class Replay(Protocol):
    """A step that is bound to its input."""

    def __call__(self) -> Tensor:
        """Run it and give its samples, valid until the next replay of any."""
        ...


class Capture(Protocol):
    """Makes a replay of a step."""

    def __call__(self, step: Step, codes: Tensor, rows: Tensor, lengths: Tensor) -> Replay:
        """Bind ``step`` to its tensors, whose values change between replays.

        Raises:
            torch.OutOfMemoryError: There is no room for the step's intermediate results.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Bound:
    """A replay and its input, which is ``StepInput.packed`` on the device."""

    packed: Tensor
    replay: Replay
    num_rows: int


class CudaCapture:
    """Captures steps on one card, in the room of all its graphs."""

    def __init__(self, room: GraphRoom) -> None:
        self._room = room

    def __call__(self, step: Step, codes: Tensor, rows: Tensor, lengths: Tensor) -> Replay:
        """Run ``step`` a few times, then capture it."""
        # Shapes are fixed here, so cuDNN may measure its algorithms once and keep the fastest.
        with (
            torch.cuda.device(self._room.device),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32
            ),
        ):
            graph, samples = self._room.capture(
                lambda: step(codes, rows, lengths), _RUNS_BEFORE_CAPTURE
            )

        def replay() -> Tensor:
            graph.replay()
            return samples

        return replay


class CodecGraphs:
    """Runs a step through replays of fixed sizes.

    Args:
        step: The codec's streaming step.
        num_codebooks: Codes per frame.
        scratch_row: Row of the state that fills batches up; nobody hears it.
        batch_buckets: Batch sizes to capture, ascending; the last one bounds a batch.
        device: Where the step runs.
        capture: Makes replays; on a card ``CudaCapture``.
    """

    def __init__(
        self,
        step: Step,
        num_codebooks: int,
        scratch_row: int,
        batch_buckets: Sequence[int],
        device: torch.device,
        capture: Capture,
    ) -> None:
        self._step = step
        self._num_codebooks = num_codebooks
        self._scratch_row = scratch_row
        self._buckets = tuple(batch_buckets)
        self._device = device
        self._capture = capture
        self._bound: dict[tuple[int, int], _Bound | None] = {}
        """By batch and frames; None where memory did not suffice."""
        self._put_off: dict[tuple[int, int], None] = {}
        """Sizes to capture when nobody waits, in order."""

    @property
    def num_graphs(self) -> int:
        """Replays that exist. At most one per bucket of batch and length of piece."""
        return sum(bound is not None for bound in self._bound.values())

    def input_for(self, batch: int, frames: int) -> StepInput:
        """Room for the next ``frames`` of ``batch`` rows; rows behind them are filled up.

        Raises:
            ValueError: The batch exceeds the last bucket.
        """
        bound = self._bound_for(batch, frames)
        num_rows = batch if bound is None else bound.num_rows
        given = StepInput.new(num_rows, self._num_codebooks, frames, self._device)
        if num_rows > batch:
            given.fill_up(batch, self._scratch_row)
        return given

    def run(self, given: StepInput) -> Tensor:
        """Advance rows by their next frames.

        Args:
            given: What ``input_for`` gave last.

        Returns:
            ``[B, S]`` samples on the device, valid until the next call.
        """
        bound = self._bound.get((given.codes.shape[0], given.codes.shape[2]))
        if bound is None:
            return self._step(*given.on(self._device))
        bound.packed.copy_(given.packed, non_blocking=True)
        return bound.replay()

    def prepare(self, batch: int, frames: int) -> None:
        """Capture the step of one size, unless that was done or tried. Not while streams wait."""
        self._put_off.pop((batch, frames), None)
        if (batch, frames) not in self._bound:
            self._bound[batch, frames] = self._captured(batch, frames)

    def put_off(self, batch: int, frames: int) -> None:
        """Leave the capture of one size to ``prepare_one``."""
        if (batch, frames) not in self._bound:
            self._put_off[batch, frames] = None

    def prepare_one(self) -> bool:
        """Capture one of the sizes that were put off; False when there is none."""
        if not self._put_off:
            return False
        self.prepare(*next(iter(self._put_off)))
        return True

    def clear(self) -> None:
        """Drop everything: an address that the captured kernels use has changed."""
        for size in self._bound:
            self._put_off[size] = None
        self._bound.clear()

    def _bound_for(self, batch: int, frames: int) -> _Bound | None:
        """Give the smallest replay that holds a batch, or None."""
        sizes = [size for size in self._buckets if size >= batch]
        if not sizes:
            raise ValueError(f"{batch} streams at once, at most {self._buckets[-1]} are captured")
        self.put_off(sizes[0], frames)
        found = (self._bound.get((size, frames)) for size in sizes)
        return next((bound for bound in found if bound is not None), None)

    def _captured(self, batch: int, frames: int) -> _Bound | None:
        packed = torch.zeros(
            batch * (self._num_codebooks * frames + 2), dtype=torch.int64, device=self._device
        )
        codes, rows, lengths = unpacked(packed, batch, self._num_codebooks)
        rows.fill_(self._scratch_row)
        lengths.fill_(frames)
        try:
            replay = self._capture(self._step, codes, rows, lengths)
        except torch.OutOfMemoryError:
            _log.warning(
                "no memory for a CUDA graph of the codec (%d streams, %d frames): they run "
                "eagerly; use fewer MAX_SLOTS, a smaller CHUNK_SIZE or CUDA_GRAPHS=false",
                batch,
                frames,
            )
            return None
        return _Bound(packed, replay, batch)
