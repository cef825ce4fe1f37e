"""Read an uploaded recording: any common container in, mono float samples at one rate out.

    bytes -> sniff (what is it) -> integrity (is it whole) -> blocks (decode) -> mono -> resample

Memory is bounded by the limit, not by the file: blocks are decoded one at a time and the work
stops as soon as the limit is passed, whatever a header claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.audio.blocks import Block, open_blocks
from backend.audio.integrity import TOLERANCE_S, read_promise
from backend.audio.resample import StreamResampler
from backend.audio.sniff import InputKind, sniff
from backend.core.errors import AudioTooLongError, InvalidAudioError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MIN_INPUT_RATE_HZ = 4_000
MAX_INPUT_RATE_HZ = 384_000

SILENCE_PEAK = 1e-3
"""-60 dBFS: a recording that never leaves this band around its mean counts as silent."""

_MAX_PEAK = 16.0  # float files may overshoot, but beyond this they hold integers or garbage


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What was uploaded.

    Attributes:
        container: ``"WAV"``, ``"MP3"``, ...
        codec: How the samples were stored, in the decoder's words.
        sample_rate: In Hz, before resampling.
        num_channels: Before the mix to mono.
        duration_s: Length of the sound.
    """

    container: str
    codec: str
    sample_rate: int
    num_channels: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoded upload.

    Attributes:
        samples: ``[S]`` float32, mono, finite; nominally -1..1.
        sample_rate: Of ``samples``, in Hz.
        source: What it was made from.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    source: SourceInfo

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds."""
        return self.samples.size / self.sample_rate


def decode_audio(
    data: bytes, *, target_sample_rate: int, max_duration_s: float, min_duration_s: float
) -> Recording:
    """Decode an upload to mono float32 at ``target_sample_rate``.

    Channels are averaged; the rate is changed with soxr (HQ). Blocks the thread for the time of
    decoding: call it off the event loop.

    Args:
        data: The file as it came. Its name plays no part.
        target_sample_rate: Wanted rate, in Hz.
        max_duration_s: Longest sound that is accepted; also bounds the memory.
        min_duration_s: Shortest sound that is accepted.

    Raises:
        AudioTooLongError: Longer than ``max_duration_s``, by its header or in fact.
        InvalidAudioError: Empty, not audio, truncated (see ``integrity``), damaged, too short,
            silent, or with samples that are not numbers. The message names the fix.
    """
    sniffed = sniff(data)
    promise = read_promise(data, sniffed)
    if promise.duration_s is not None and promise.duration_s > max_duration_s + TOLERANCE_S:
        raise _too_long(max_duration_s, promise.duration_s)
    with open_blocks(sniffed.kind, data[promise.start : promise.end]) as blocks:
        recording = _collect(blocks, sniffed.kind, target_sample_rate, max_duration_s)
    duration_s = recording.source.duration_s
    if promise.duration_s is not None and promise.duration_s - duration_s > promise.tolerance_s:
        raise InvalidAudioError(
            f"the {sniffed.kind} recording is damaged or truncated: its header promises "
            f"{promise.duration_s:.1f} s, {duration_s:.1f} s can be decoded; upload the complete "
            "file"
        )
    if duration_s < min_duration_s:
        raise InvalidAudioError(
            f"the recording is too short ({duration_s:.2g} s); at least {min_duration_s:g} s "
            "are needed, 5 to 30 s are best"
        )
    _refuse_silence(recording.samples)
    return recording


def _collect(
    blocks: Iterable[Block], kind: InputKind, target_rate_hz: int, max_duration_s: float
) -> Recording:
    first: Block | None = None
    resampler: StreamResampler | None = None
    num_rows = 0
    parts: list[NDArray[np.float32]] = []
    for block in blocks:
        if first is None or resampler is None:
            _check_rate(block)
            first = block
            resampler = StreamResampler(block.sample_rate, target_rate_hz)
        elif block.sample_rate != first.sample_rate:
            raise InvalidAudioError(
                f"the sample rate changes from {first.sample_rate} to {block.sample_rate} Hz "
                "inside the recording; export it again at one rate"
            )
        num_rows += block.samples.shape[0]
        if num_rows > round(max_duration_s * first.sample_rate):
            raise _too_long(max_duration_s, None)
        parts.append(resampler.feed(_mono(block.samples)))
    if first is None or resampler is None:
        raise InvalidAudioError(f"the {kind} file holds no sound (0 samples); record it again")
    samples = np.concatenate([*parts, resampler.finish()])
    num_channels = first.samples.shape[1]
    duration_s = num_rows / first.sample_rate
    source = SourceInfo(kind.value, first.codec, first.sample_rate, num_channels, duration_s)
    return Recording(samples, target_rate_hz, source)


def _check_rate(block: Block) -> None:
    if not MIN_INPUT_RATE_HZ <= block.sample_rate <= MAX_INPUT_RATE_HZ:
        raise InvalidAudioError(
            f"a sample rate of {block.sample_rate} Hz is outside {MIN_INPUT_RATE_HZ} to "
            f"{MAX_INPUT_RATE_HZ} Hz; export the recording at 44100 Hz"
        )


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average ``[S, C]`` to ``[S]``; refuse what is not a sample."""
    if not np.isfinite(samples).all():
        raise InvalidAudioError(
            "the recording holds NaN or infinite samples; export it again as 16-bit WAV"
        )
    if np.abs(samples).max(initial=0.0) > _MAX_PEAK:
        raise InvalidAudioError(
            "the recording's float samples are far outside -1..1; normalize it and export again"
        )
    return np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))


def _refuse_silence(samples: NDArray[np.float32]) -> None:
    # Around the mean: a constant offset is silence too.
    swing = float(np.abs(samples - samples.mean(dtype=np.float64)).max(initial=0.0))
    if swing < SILENCE_PEAK:
        raise InvalidAudioError(
            "the recording is silent (below -60 dBFS throughout); check the microphone and "
            "record again"
        )


def _too_long(max_duration_s: float, duration_s: float | None) -> AudioTooLongError:
    length = f"lasts {duration_s:.0f} s" if duration_s is not None else "is too long"
    return AudioTooLongError(
        f"the recording {length}; at most {max_duration_s:g} s are accepted, so cut it "
        "(5 to 30 s are best)"
    )
