"""The fused decoding half of a codec, as the engine uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from backend.models.codec.fused.network import DecoderNetwork
from backend.models.codec.fused.ops import FEW_FRAMES
from backend.models.codec.fused.packing import without_storage
from backend.models.codec.fused.state import FusedPool, Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from backend.models.codec.codec import Codec
    from backend.models.codec.fused.ops import FusedOps


class FusedDecoder:
    """Codes of many streams to samples.

    Args:
        codec: With its decoding half; ``why_not_fused`` has nothing against it.
        ops: What the operations run on.
    """

    def __init__(self, codec: Codec, ops: FusedOps) -> None:
        # Never inference tensors, as the weights themselves.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._network = DecoderNetwork(codec)
        self._ops = ops

    def take_weights(self, codec: Codec) -> None:
        """Give up the codec's own decoding half, so that the weights are in memory once.

        The codec cannot decode by itself afterwards.
        """
        quantizer = codec.quantizer
        for module in (codec.decoder, quantizer.post_module, quantizer.upsample):
            assert module is not None
            without_storage(module)

    def try_out(self) -> None:
        """Decode a frame; raises whatever this machine has against it."""
        pool = self.new_pool(1)
        self.compile_for([(1, 1)], pool)
        rows = torch.zeros(1, dtype=torch.int64, device=pool.positions.device)
        codes = rows.new_zeros(1, self._network.config.num_codebooks, 1)
        samples = self.decode_rows(codes, pool, rows, rows + 1)
        if not bool(samples.isfinite().all()):
            raise RuntimeError("what it decodes is no sound")

    def new_pool(self, num_rows: int) -> FusedPool:
        """Give room for ``num_rows`` streams."""
        return self._network.new_pool(num_rows)

    @torch.inference_mode()
    def compile_for(self, sizes: Sequence[tuple[int, int]], pool: FusedPool) -> None:
        """Compile all that ``decode_rows`` needs for these pairs of B and F; no stream moves.

        Kernels go by all frames of a batch together, and by whether a stream has few. Those of the
        largest batches take longest, so they come first.
        """
        kinds = {(batch * frames, frames <= FEW_FRAMES): (batch, frames) for batch, frames in sizes}
        with self._ops.compiling() as is_needed:
            for _, (batch, frames) in sorted(kinds.items(), reverse=True) if is_needed else ():
                rows = torch.zeros(batch, dtype=torch.int64, device=pool.positions.device)
                codes = rows.new_zeros(batch, self._network.config.num_codebooks, frames)
                self._network.run(self._ops, codes, Streams(pool, rows, rows))

    @torch.inference_mode()
    def decode_rows(self, codes: Tensor, pool: FusedPool, rows: Tensor, lengths: Tensor) -> Tensor:
        """Turn the next frames of some streams of a pool into their samples.

        Nothing is read on the host, so the call can be captured as a CUDA graph. The rotary table
        must have room for the streams: see ``Codec.reserve_positions``.

        Args:
            codes: ``[B, K, F]`` int64 on the codec's device, as in ``Codec.decode_frames``.
            pool: Where the streams are kept; changed in place.
            rows: ``[B]`` int64 on the device: whose frames these are, no row twice (but for rows
                whose samples nobody wants).
            lengths: ``[B]`` int64 on the device: how many of the F frames each stream has, at
                least 1. The others may be anything.

        Returns:
            ``[B, F * frame_length]`` float32; of each stream its own frames count.
        """
        return self._network.run(self._ops, codes, Streams(pool, rows, lengths))
