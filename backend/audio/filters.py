# pyright: reportUnknownMemberType=false
# PyAV leaves the parameter of Fraction and of arrays open in its type hints.

"""FFmpeg's audio filters (through PyAV's filter graph) over a stream of mono samples."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import av
import av.error
import av.filter
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Piece: TypeAlias = "tuple[NDArray[np.float32], dict[str, str]]"
"""Samples, and what the filter says about them."""

_BLOCK = 1024


class FilterStream:
    """One filter at work. Not for use by two threads.

    Life: ``feed`` any number of times -> ``finish`` once. The filter always sees blocks of the same
    size, so what comes out does not depend on how the sound was cut before.

    Args:
        name: Of FFmpeg's filter.
        options: ``key=value`` joined by ``:``, as on FFmpeg's command line.
        sample_rate: In Hz, of what goes in and what comes out.
    """

    def __init__(self, name: str, options: str, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._graph = av.filter.Graph()
        source = self._graph.add_abuffer(
            sample_rate=sample_rate, format="flt", layout="mono", time_base=Fraction(1, sample_rate)
        )
        # Without it a filter that works in another format hands that one out.
        back = f"sample_fmts=flt:channel_layouts=mono:sample_rates={sample_rate}"
        chain = (
            source,
            self._graph.add(name, options),
            self._graph.add("aformat", back),
            self._graph.add("abuffersink"),
        )
        self._graph.link_nodes(*chain).configure()
        self._pending = np.zeros(0, np.float32)
        self._num_pushed = 0

    def feed(self, samples: NDArray[np.float32]) -> list[Piece]:
        """Take ``[S]`` float32 and give the pieces that are ready, with the filter's metadata."""
        pending = np.concatenate([self._pending, samples])
        num_whole = pending.size - pending.size % _BLOCK
        pieces: list[Piece] = []
        for start in range(0, num_whole, _BLOCK):
            self._push(pending[start : start + _BLOCK])
            pieces += self._ready()
        self._pending = pending[num_whole:]
        return pieces

    def finish(self) -> list[Piece]:
        """Give what the filter still holds. It takes no more after this."""
        if self._pending.size:
            self._push(self._pending)
        self._graph.push(None)
        return list(self._ready())

    def _push(self, samples: NDArray[np.float32]) -> None:
        frame = av.AudioFrame.from_ndarray(samples[None, :], "flt", "mono")
        frame.sample_rate = self._sample_rate
        frame.pts = self._num_pushed
        self._num_pushed += samples.size
        self._graph.push(frame)

    def _ready(self) -> Iterator[Piece]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)  # an audio graph has no other frames
            yield frame.to_ndarray().reshape(-1).astype(np.float32), dict(frame.metadata)
