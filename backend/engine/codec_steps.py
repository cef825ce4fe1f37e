"""The codec's streaming step and its streams: in fused kernels, or through the codec's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from backend.models.codec.codec import Codec
    from backend.models.codec.fused.decoder import FusedDecoder
    from backend.models.codec.fused.state import FusedPool
    from backend.models.codec.state_pool import StatePool


class CodecSteps(Protocol):
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


class PlainSteps:
    """The step of the codec's modules; all streams of a batch have equally many frames."""

    def __init__(self, codec: Codec, num_rows: int) -> None:
        self._codec = codec
        self.pool = codec.new_pool(num_rows)
        codec.quantizer.fold_lookups()

    def __call__(self, codes: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """See ``CodecSteps``."""
        if codes.shape[0] == 1 and not codes.is_cuda:  # in place, nothing is copied
            return self._codec.decode_stream(codes, self.pool.row(int(rows[0])))
        return self._codec.decode_rows(codes, self.pool, rows)

    def make_ready(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Do nothing: libraries bring their kernels along."""


class FusedSteps:
    """The step of the fused decoder."""

    def __init__(self, fused: FusedDecoder, num_rows: int) -> None:
        self._fused = fused
        self.pool = fused.new_pool(num_rows)

    def __call__(self, codes: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """See ``CodecSteps``."""
        return self._fused.decode_rows(codes, self.pool, rows, lengths)

    def make_ready(self, sizes: Sequence[tuple[int, int]]) -> None:
        """See ``CodecSteps``."""
        self._fused.compile_for(sizes, self.pool)
