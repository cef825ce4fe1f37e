"""How the codec runs on this machine: format, kernels, graphs, all chosen once at start."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from backend.engine.backends import set_backends
from backend.engine.capture import GraphRoom
from backend.engine.codec_graphs import CudaCapture
from backend.engine.codec_precision import (
    CodecPrecision,
    FusedChoice,
    choose_codec_precision,
    find_fused_ops,
    find_snake_kernel,
)
from backend.engine.compiling import CODEC_LAYERS, compile_codec, not_compiled
from backend.engine.decode_frames import StreamDecoder
from backend.engine.encode_graphs import EncodeCapture
from backend.engine.encode_reference import ReferenceEncoder, nothing_to_await
from backend.engine.lanes import (
    HIGH_PRIORITY,
    LOW_PRIORITY,
    CardLane,
    HostLane,
    lane_of,
    num_streams_of,
)
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.network import why_not_fused
from backend.models.codec.weights import load_codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.core.settings import Settings
    from backend.engine.codec_graphs import Capture
    from backend.engine.lanes import Lane
    from backend.models.codec.codec import Codec
    from backend.models.codec.layers import SnakeKernel


@dataclass(frozen=True, slots=True)
class CodecSetup:
    """What was chosen.

    Attributes:
        precision: Device and number format.
        snake: The fused activation, or None for plain PyTorch.
        fused: What the fused halves run on.
        capture: Makes CUDA graphs of the streaming step, or None.
        max_frames: Most frames of a stream in one go.
        batching: Whether streams are decoded together.
        lane: Where the codec's work is queued.
        room: Where the codec's graphs are captured, or None for the eager path.
        step_room: Where all other graphs are captured; the same unless they may run meanwhile.
        is_encoder_on_host: Whether the encoder's weights stay in the host.
        compile_layers: Compiles the layers of a codec that is not fused and tells what came of it;
            None leaves them as they are.
        notes: The choices, for people.
        await_kernels: Waits so many seconds at most for the kernels that are being compiled ahead,
            and tells whether they are there.
    """

    precision: CodecPrecision
    snake: SnakeKernel | None
    fused: FusedChoice
    capture: Capture | None
    max_frames: int
    batching: bool
    lane: Lane = field(default_factory=HostLane)
    room: GraphRoom | None = None
    step_room: GraphRoom | None = None
    is_encoder_on_host: bool = False
    compile_layers: Callable[[Codec], tuple[str, ...]] | None = None
    notes: tuple[str, ...] = ()
    await_kernels: Callable[[float | None], bool] = nothing_to_await

    def load_decoder(self, directory: Path) -> Codec:
        """Load the half that makes samples.

        Raises:
            CheckpointError: Files are missing or do not fit; the message names them.
        """
        codec = load_codec(directory, self.precision.device, self.precision.dtype, "decode")
        codec.use_snake_kernel(self.snake)
        return codec

    def reference_encoder(self, directory: Path) -> ReferenceEncoder:
        """Prepare the half that makes codes; a large one is loaded when it is first needed.

        Raises:
            CheckpointError: Files are missing or do not fit; the message names them.
        """
        return ReferenceEncoder(
            directory, self.precision.device, self.snake,
            is_on_host=self.is_encoder_on_host, room=self.room,
            capture=None if self.room is None else EncodeCapture(self.room),
            rounds_products=self.precision.rounds_float32,
            fused_ops=self.fused.encode,
            await_kernels=self.await_kernels,
        )  # fmt: skip

    def stream_decoder(self, codec: Codec, num_slots: int) -> tuple[StreamDecoder, tuple[str, ...]]:
        """Give ``num_slots`` streams over a codec that ``load_decoder`` loaded.

        The fused decoder takes the weights of the codec, which cannot decode by itself then.

        Returns:
            The streams, and what they run on, for people.
        """
        fused, notes = self._fused_decoder(codec)
        if self.compile_layers is not None:
            told = self.compile_layers(codec) if fused is None else (not_compiled(CODEC_LAYERS),)
            notes += told
        streams = StreamDecoder(
            codec, num_slots, self.max_frames,
            batching=self.batching, capture=self.capture, fused=fused, lane=self.lane,
        )  # fmt: skip
        return streams, notes

    def _fused_decoder(self, codec: Codec) -> tuple[FusedDecoder | None, tuple[str, ...]]:
        """Make the fused decoder and decode one frame with it; None where that is impossible."""
        if self.fused.decode is None:
            return None, ()
        reason = why_not_fused(codec)
        if reason is None:
            fused = FusedDecoder(codec, self.fused.decode)
            try:
                fused.try_out()
            except Exception as error:  # noqa: BLE001 - Triton's failures have no common type
                reason = f"Triton failed ({error})"
            else:
                fused.take_weights(codec)
                return fused, ("the codec decodes in fused kernels",)
        return None, (f"the codec decodes in plain PyTorch, not in fused kernels: {reason}",)


def choose_codec_setup(
    settings: Settings,
    device: torch.device,
    await_kernels: Callable[[float | None], bool] = nothing_to_await,
) -> CodecSetup:
    """Choose by settings and machine, and set PyTorch's process-wide flags."""
    precision = choose_codec_precision(settings.codec_precision, device)
    snake, snake_notes = find_snake_kernel(device) if settings.codec_fused else (None, ())
    fused = FusedChoice()
    if snake is not None:
        fused = find_fused_ops(precision, with_encoder=settings.codec_fused_encoder)
    lane, room, step_room = _lane_and_rooms(settings, device)
    return CodecSetup(
        precision=precision,
        snake=snake,
        fused=fused,
        capture=None if room is None else CudaCapture(room),
        max_frames=settings.chunk_size,
        batching=settings.codec_batching,
        lane=lane,
        room=room,
        step_room=step_room,
        is_encoder_on_host=settings.encoder_on_host and device.type == "cuda",
        compile_layers=(
            partial(compile_codec, settings=settings) if settings.enable_torch_compile else None
        ),
        notes=(*set_backends(precision), *precision.notes, *snake_notes, *fused.notes),
        await_kernels=await_kernels,
    )


def _lane_and_rooms(
    settings: Settings, device: torch.device
) -> tuple[Lane, GraphRoom | None, GraphRoom | None]:
    """Give the codec's lane, its graphs' room, and the room of all other graphs."""
    if device.type != "cuda":
        return lane_of(device), None, None
    if num_streams_of(settings) == 1:
        room = GraphRoom(device) if settings.cuda_graphs else None
        return lane_of(device), room, room
    if not settings.cuda_graphs:
        return CardLane(device, torch.cuda.Stream(device, priority=LOW_PRIORITY)), None, None
    room = GraphRoom(device, LOW_PRIORITY)
    return CardLane(device, room.stream), room, GraphRoom(device, HIGH_PRIORITY)
