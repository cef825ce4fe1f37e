"""Recordings to codes: the half of the codec that a server needs now and then.

It is over half of S1-mini's codec (0.8 GB in float32), and a server whose voices are all encoded
never needs it: a large one is loaded when the first recording comes.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.engine.encode_graphs import EncodeGraphs
from backend.engine.host_weights import stream_from_host
from backend.models.codec.fused.encoder import FusedEncoder, why_encoder_not_fused
from backend.models.codec.layers import CausalConv1d, ConvNeXtBlock
from backend.models.codec.transformer import TransformerBlock, WindowTransformer
from backend.models.codec.weights import check_codec, load_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from backend.engine.capture import GraphRoom
    from backend.engine.encode_graphs import Capture
    from backend.models.codec.codec import Codec
    from backend.models.codec.fused.ops import FusedOps
    from backend.models.codec.layers import SnakeKernel

_log = logging.getLogger(__name__)
MOST_EAGER_BYTES = 64 * 2**20
"""Weights up to this size are loaded at start."""
_CHUNK_FRAMES = {"cpu": 64, "cuda": 256}
"""Frames of all recordings of a batch that are worked on at a time, by kind of device. The first
layers hold 64 float32 channels per sample: 64 frames of S1-mini are 34 MB a tensor. On a CPU that
is what the caches bear, on a card 256 frames keep it busy."""
_CHUNK_FRAMES_ON_HOST = 32
"""The same where the weights stay in the host, which is asked for where memory is short."""
_MOST_TOGETHER = 8
_MOMENT_S = 0.02
"""Whoever comes while nobody waits must not wait longer, even if kernels are not there yet."""
COMPILED = ((1, 256), (1, 88), (1, 12), (1, 1))
"""Recordings and frames whose kernels are there when the weights are: those of any other length,
and of several recordings, are among them. What takes longest to compile comes first."""
_STREAMED = (CausalConv1d, ConvNeXtBlock, TransformerBlock)
"""Layers that come to the card one by one where the weights stay in the host."""


def chunk_frames_of(device_type: str, *, is_on_host: bool) -> int:
    """Frames of all recordings of a batch that are worked on at a time."""
    return _CHUNK_FRAMES_ON_HOST if is_on_host else _CHUNK_FRAMES[device_type]


def nothing_to_await(_: float | None) -> bool:
    """For kernels that nobody compiles ahead."""
    return True


class ReferenceEncoder:
    """The codec's encoding half, in float32.

    Args:
        directory: The model.
        device: Where it runs.
        snake: The fused activation, or None.
        is_on_host: Whether the weights stay in the host and come to the device a layer at a time.
        room: Whose memory the work may use, or None.
        capture: Makes CUDA graphs of single recordings, or None for the eager path. Weights in the
            host go without always.
        rounds_products: Whether the transformers may run in TF32 on a card, as the convolutions do
            by PyTorch's own setting. The codebooks never do.
        fused_ops: What the fused convolutions run on, or None for the codec's modules. Weights in
            the host go through the modules always.
        await_kernels: Waits so many seconds at most for the kernels that are being compiled ahead,
            and tells whether they are there.

    Raises:
        CheckpointError: The codec file cannot be read.
        CheckpointMismatchError: Its encoder lacks tensors or has others; they are named. This is
            found here although the weights may be read later.
    """

    def __init__(
        self,
        directory: Path,
        device: torch.device,
        snake: SnakeKernel | None = None,
        *,
        is_on_host: bool = False,
        room: GraphRoom | None = None,
        capture: Capture | None = None,
        rounds_products: bool = False,
        fused_ops: FusedOps | None = None,
        await_kernels: Callable[[float | None], bool] = nothing_to_await,
    ) -> None:
        self._await_kernels = await_kernels
        self._directory = directory
        self._device = device
        self._snake = snake
        self._is_on_host = is_on_host
        self._room = room
        self._rounds_products = rounds_products
        self._capture = None if is_on_host else capture
        self._graphs: EncodeGraphs | None = None
        self._fused_ops = None if is_on_host else fused_ops
        self.num_bytes = check_codec(directory, "encode")
        self._codec: Codec | None = None
        if self.num_bytes <= MOST_EAGER_BYTES:
            self._load()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._codec is not None

    def has_kernels(self, timeout_s: float = 0.0) -> bool:
        """Whether the kernels are there that are being compiled ahead; waits so long for them."""
        return self.is_loaded or self._fused_ops is None or self._await_kernels(timeout_s)

    def prepare_one(self) -> bool:
        """Load the weights, or capture a graph; False when there is nothing left to do.

        For a moment in which nobody waits, so that no voice that comes later does. Without graphs
        there is nothing to prepare.
        """
        if self._capture is None:
            return False
        if not self.has_kernels(_MOMENT_S):
            return True
        if self._graphs is None:
            self._graphs = EncodeGraphs(self._codec or self._load(), self._capture)
            return True
        return self._graphs.prepare_one()

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
        if self._graphs is not None and len(recordings) == 1:
            [samples] = recordings
            if self._graphs.can_encode(len(samples)):
                return [self._graphs.encode(samples)]
        codec = self._codec or self._load()
        batch = np.zeros((len(recordings), max(map(len, recordings))), np.float32)
        for row, samples in zip(batch, recordings, strict=True):
            row[: len(samples)] = samples
        most = chunk_frames_of(self._device.type, is_on_host=self._is_on_host)
        chunk_frames = max(1, most // len(recordings))
        self._reserve_positions(codec, batch.shape[1])
        with nullcontext() if self._room is None else self._room.working():
            on_device = torch.from_numpy(batch).to(self._device)
            codes = codec.encode_reference(on_device, chunk_frames=chunk_frames)
            on_host = codes.to("cpu", torch.int32).numpy()
        frames = [-(-len(samples) // codec.frame_length) for samples in recordings]
        return [row[:, :count].copy() for row, count in zip(on_host, frames, strict=True)]

    def _reserve_positions(self, codec: Codec, num_samples: int) -> None:
        """Let the rotary tables grow now: what is made while the work is done does not last."""
        num_positions = -(-num_samples // codec.config.hop_length)
        for module in codec.modules():
            if isinstance(module, WindowTransformer):
                module.rotary.reserve(num_positions, self._device)

    def _load(self) -> Codec:
        where = torch.device("cpu") if self._is_on_host else self._device
        codec = load_codec(self._directory, where, torch.float32, "encode")
        if self._is_on_host:
            stream_from_host(codec, _STREAMED, self._device)
        codec.use_snake_kernel(self._snake)
        for module in codec.modules():
            if isinstance(module, WindowTransformer):
                module.rounds_products = self._rounds_products
        self._reserve_positions(codec, 1)
        if self._fused_ops is not None:
            self._await_kernels(None)
            _use_fused(codec, self._fused_ops, self._room)
        if self.num_bytes > MOST_EAGER_BYTES:
            _log.info("the codec's encoder is loaded (%d MiB)", self.num_bytes // 2**20)
        self._codec = codec
        return codec


def _use_fused(codec: Codec, ops: FusedOps, room: GraphRoom | None) -> None:
    """Let a codec encode in fused operations where that is possible; tried out in ``room``."""
    reason = why_encoder_not_fused(codec)
    if reason is not None:
        _log.info("the codec's encoder runs in plain PyTorch, since %s", reason)
        return
    fused = FusedEncoder(codec, ops)
    try:
        with nullcontext() if room is None else room.working():
            fused.try_out(COMPILED)
    except Exception as error:  # noqa: BLE001 - Triton's failures have no common type
        _log.warning(
            "CODEC_FUSED_ENCODER: the encoder runs in plain PyTorch, since Triton failed (%s)",
            error,
        )
        return
    fused.take_weights()
    codec.fused_encoder = fused
