# pyright: reportUnknownMemberType=false
# PyAV leaves the parameter of Packet open in its type hints.

"""The formats that FFmpeg writes (through PyAV): MP3, FLAC, Opus in Ogg, AAC in ADTS.

A streamed container goes into a sink that only knows ``write``, so FFmpeg cannot go back to patch
a header, and every packet is flushed: bytes come out in the call that completed them. A whole file
goes into memory that FFmpeg can seek in, so its header states the length.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import av
import numpy as np
from av.audio.stream import AudioStream

from backend.audio.formats import AI_GENERATED_COMMENT
from backend.audio.pcm import to_s16

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.container import OutputContainer
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class _CodecChoice:
    """How FFmpeg is asked for one format.

    ``sample_format`` is mono, so planar and packed are the same bytes. ``stream_options`` are
    added to ``container_options`` when nobody can seek back in the output.
    """

    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    container_options: Mapping[str, str] = field(default_factory=dict[str, str])
    stream_options: Mapping[str, str] = field(default_factory=dict[str, str])


_CHOICES: Mapping[str, _CodecChoice] = MappingProxyType(
    {
        "mp3": _CodecChoice(
            container="mp3",
            codec="libmp3lame",
            sample_format="fltp",
            bit_rate=128_000,
            container_options={"id3v2_version": "3"},
            # The Xing frame holds the length, which is not known when it would be written.
            stream_options={"write_xing": "0"},
        ),
        "flac": _CodecChoice(
            container="flac",
            codec="flac",
            sample_format="s16",
            # FFmpeg's default reserves 8 KiB for tags that somebody might add later.
            container_options={"metadata_header_padding": "64"},
        ),
        "opus": _CodecChoice(
            container="ogg",
            codec="libopus",
            sample_format="flt",
            bit_rate=64_000,
            # One page for each 20 ms packet; the default of 1 s would hold the sound back.
            stream_options={"page_duration": "20000"},
        ),
        "aac": _CodecChoice(container="adts", codec="aac", sample_format="fltp", bit_rate=128_000),
    }
)


class _Sink:
    """A file that can only be written to; what was written is taken away again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.is_complete = False

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken


class _SeekableSink(io.BytesIO):
    """A whole file in memory; nothing is given away before its header has been patched."""

    def __init__(self) -> None:
        super().__init__()
        self.is_complete = False

    def take(self) -> bytes:
        return self.getvalue() if self.is_complete else b""


class CompressedEncoder:
    """One compressed file on its way out.

    Life: ``header`` -> ``feed`` ... -> ``finish`` -> ``close``; ``close`` alone abandons the file.

    Args:
        format_name: ``"mp3"``, ``"flac"``, ``"opus"`` or ``"aac"``.
        sample_rate: In Hz; must be one the codec can carry (``OutputFormat.output_rate_hz``).
        whole: True keeps everything back until ``finish`` and then gives one file whose header
            states the length.
        bitrate_kbps: Instead of the format's usual bit rate; ``OutputFormat.check_bitrate`` tells
            which are offered.
    """

    def __init__(
        self,
        format_name: str,
        sample_rate: int,
        *,
        whole: bool = False,
        bitrate_kbps: int | None = None,
    ) -> None:
        choice = _CHOICES[format_name]
        self._sample_format = choice.sample_format
        self._sample_rate = sample_rate
        self._sink = _SeekableSink() if whole else _Sink()
        options = {"flush_packets": "1", **choice.container_options}
        if not whole:
            options |= choice.stream_options
        container = av.open(self._sink, "w", format=choice.container, container_options=options)
        container.metadata["comment"] = AI_GENERATED_COMMENT
        stream = container.add_stream(choice.codec, rate=sample_rate)
        assert isinstance(stream, AudioStream)  # all choices are audio codecs
        context = stream.codec_context
        context.layout = "mono"
        context.format = choice.sample_format
        bit_rate = choice.bit_rate if bitrate_kbps is None else bitrate_kbps * 1000
        if bit_rate is not None:
            context.bit_rate = bit_rate
        container.start_encoding()
        self._file: tuple[OutputContainer, AudioStream] | None = (container, stream)
        self._frame_size = context.frame_size
        self._pending = np.zeros(0, np.float32)  # less than one codec frame
        self._num_encoded = 0

    def header(self) -> bytes:
        """Give what the container wrote at its start: tags and codec setup."""
        return self._sink.take()

    def feed(self, samples: NDArray[np.float32]) -> bytes:
        """Encode ``[S]`` float32 samples in -1..1; what does not fill a codec frame waits."""
        pending = np.concatenate([self._pending, samples])
        num_whole = pending.size - pending.size % self._frame_size
        for start in range(0, num_whole, self._frame_size):
            self._encode(pending[start : start + self._frame_size])
        self._pending = pending[num_whole:]
        return self._sink.take()

    def finish(self) -> bytes:
        """Encode the short last frame, flush the codec, write the container's end."""
        if self._pending.size:
            self._encode(self._pending)
        self._mux(None)
        self.close()  # writes the container's end
        self._sink.is_complete = True
        return self._sink.take()

    def close(self) -> None:
        """Free codec and container."""
        if self._file is not None:
            container, _ = self._file
            # The codec's memory (6 MB for FLAC) goes with the last reference, not with close().
            self._file = None
            container.close()

    def _encode(self, samples: NDArray[np.float32]) -> None:
        block = to_s16(samples) if self._sample_format == "s16" else samples
        frame = av.AudioFrame.from_ndarray(block[None, :], self._sample_format, "mono")
        frame.sample_rate = self._sample_rate
        frame.pts = self._num_encoded
        self._num_encoded += samples.size
        self._mux(frame)

    def _mux(self, frame: av.AudioFrame | None) -> None:
        if self._file is None:
            raise ValueError("the encoder has ended; make a new one for the next file")
        container, stream = self._file
        container.mux(stream.encode(frame))
