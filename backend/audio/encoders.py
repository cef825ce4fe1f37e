"""Stream encoders: float samples go in chunk by chunk, bytes of a file come out at once.

    with make_encoder("mp3", 44_100) as encoder:
        send(encoder.header())
        for chunk in chunks:
            send(encoder.feed(chunk))
        send(encoder.finish())

The ``with`` matters: a client that leaves ends the loop in the middle, and only ``close`` gives
the codec's memory back then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from backend.audio.compressed import CompressedEncoder
from backend.audio.formats import OutputFormat, output_format
from backend.audio.pcm import to_s16le_bytes
from backend.audio.resample import StreamResampler, resample
from backend.audio.wav import wav_header, whole_wav
from backend.core.errors import GenerationError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray


class FileWriter(Protocol):
    """What one format must be able to do; samples are checked and at its own rate already."""

    def header(self) -> bytes:
        """Give the bytes that stand before any sound."""
        ...

    def feed(self, samples: NDArray[np.float32]) -> bytes:
        """Take ``[S]`` samples and give the bytes that are ready."""
        ...

    def finish(self) -> bytes:
        """Give the last bytes."""
        ...

    def close(self) -> None:
        """Release native memory; may be called at any time and more than once."""
        ...


class AudioEncoder:
    """One file on its way out, in any format.

    Life: ``header`` once -> ``feed`` any number of times -> ``finish`` once -> ``close``.
    ``close`` may come at any time, as often as one likes; leaving the ``with`` block calls it.
    Calls from several threads wait for each other, so a client that leaves may be closed while
    its last chunk is still being encoded elsewhere.

    Attributes:
        format: The row of the format table.
        media_type: Value of ``Content-Type``.
        sample_rate: Rate of the sound inside the file, in Hz; it differs from the fed rate where
            the codec cannot carry that (44.1 kHz in Opus becomes 48 kHz).
    """

    def __init__(
        self,
        output: OutputFormat,
        writer: FileWriter,
        fed_rate_hz: int,
        file_rate_hz: int | None = None,
    ) -> None:
        self.format = output
        self.media_type = output.media_type
        self.sample_rate = output.file_rate_hz(fed_rate_hz, file_rate_hz)
        resampler = StreamResampler(fed_rate_hz, self.sample_rate)
        self._lock = threading.RLock()
        self._parts: tuple[FileWriter, StreamResampler] | None = (writer, resampler)

    def header(self) -> bytes:
        """Give the bytes that stand before any sound; empty for formats without a header."""
        with self._lock:
            writer, _ = self._open_parts()
            return writer.header()

    def feed(self, samples: NDArray[np.float32]) -> bytes:
        """Encode the next samples.

        Args:
            samples: ``[S]`` float32 at the fed rate; beyond -1..1 is clamped. May be empty.

        Returns:
            The bytes that are ready; empty while the codec collects a full block.

        Raises:
            GenerationError: A sample is NaN or infinite.
            ValueError: ``samples`` is not one-dimensional float32, or the encoder has ended.
        """
        with self._lock:
            writer, resampler = self._open_parts()
            _require_speech(samples)
            return _write(writer, resampler.feed(samples))

    def finish(self) -> bytes:
        """Flush resampler and codec, give the last bytes, and release everything."""
        with self._lock:
            writer, resampler = self._open_parts()
            last = _write(writer, resampler.finish()) + writer.finish()
            self.close()
            return last

    def close(self) -> None:
        """Release codec and resampler. Bytes not yet handed out are lost."""
        with self._lock:
            if self._parts is not None:
                writer, _ = self._parts
                self._parts = None  # native memory goes with the last reference
                writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_parts(self) -> tuple[FileWriter, StreamResampler]:
        if self._parts is None:
            raise ValueError("the encoder has ended; make a new one for the next file")
        return self._parts


def _write(writer: FileWriter, samples: NDArray[np.float32]) -> bytes:
    # Clamped after resampling: the filter overshoots by a little next to full scale.
    return writer.feed(np.clip(samples, -1.0, 1.0)) if samples.size else b""


class PcmWriter:
    """Bare little-endian 16-bit samples."""

    def header(self) -> bytes:
        """Give nothing: the format has no header."""
        return b""

    def feed(self, samples: NDArray[np.float32]) -> bytes:
        """Give two bytes for each sample."""
        return to_s16le_bytes(samples)

    def finish(self) -> bytes:
        """Give nothing: every sample has left already."""
        return b""

    def close(self) -> None:
        """Do nothing: there is no native memory."""


class WavWriter(PcmWriter):
    """PCM behind a header whose sizes are open, because the length is not known yet."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate

    def header(self) -> bytes:
        """Give the RIFF header with ``UNKNOWN_SIZE`` in both size fields."""
        return wav_header(self._sample_rate, num_samples=None)


def make_encoder(
    format_name: str,
    sample_rate: int,
    *,
    bitrate_kbps: int | None = None,
    file_rate_hz: int | None = None,
) -> AudioEncoder:
    """Start a file in one of the formats of ``OUTPUT_FORMATS``.

    Args:
        format_name: ``"wav"``, ``"pcm"``, ``"mp3"``, ``"flac"``, ``"opus"`` or ``"aac"``.
        sample_rate: Rate of the samples that will be fed, in Hz.
        bitrate_kbps: Of a lossy format; None takes its usual one.
        file_rate_hz: Rate of the file; None keeps the fed one where the format can.

    Raises:
        UnsupportedFormatError: Unknown format, or a sample rate or bit rate that is not offered.
    """
    output = output_format(format_name)
    output.check_bitrate(bitrate_kbps)
    rate_hz = output.file_rate_hz(sample_rate, file_rate_hz)
    writer: FileWriter
    if output.name == "pcm":
        writer = PcmWriter()
    elif output.name == "wav":
        writer = WavWriter(rate_hz)
    else:
        writer = CompressedEncoder(output.name, rate_hz, bitrate_kbps=bitrate_kbps)
    return AudioEncoder(output, writer, sample_rate, file_rate_hz)


def encode_whole(
    format_name: str,
    samples: NDArray[np.float32],
    sample_rate: int,
    *,
    bitrate_kbps: int | None = None,
    file_rate_hz: int | None = None,
) -> bytes:
    """Give finished speech as one file whose header states its length, where the format can.

    Prefer this to ``make_encoder`` when nothing is streamed: players show the duration and can
    seek, and libsndfile reads such a FLAC, which it does not with an open length.

    Args:
        format_name: A name of ``OUTPUT_FORMATS``.
        samples: ``[S]`` float32; beyond -1..1 is clamped.
        sample_rate: Of ``samples``, in Hz.
        bitrate_kbps: Of a lossy format; None takes its usual one.
        file_rate_hz: Rate of the file; None keeps the fed one where the format can.

    Raises:
        UnsupportedFormatError: Unknown format, or a sample rate or bit rate that is not offered.
        GenerationError: A sample is NaN or infinite.
    """
    output = output_format(format_name)
    output.check_bitrate(bitrate_kbps)
    rate_hz = output.file_rate_hz(sample_rate, file_rate_hz)
    if output.name in ("pcm", "wav"):
        _require_speech(samples)
        samples = resample(samples, sample_rate, rate_hz)
        return whole_wav(samples, rate_hz) if output.name == "wav" else to_s16le_bytes(samples)
    writer = CompressedEncoder(output.name, rate_hz, whole=True, bitrate_kbps=bitrate_kbps)
    with AudioEncoder(output, writer, sample_rate, file_rate_hz) as encoder:
        return encoder.header() + encoder.feed(samples) + encoder.finish()


def _require_speech(samples: NDArray[np.float32]) -> None:
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"samples must be [S] float32, got {samples.shape} {samples.dtype}")
    if not np.isfinite(samples).all():
        raise GenerationError("the model produced samples that are not numbers; try again")
