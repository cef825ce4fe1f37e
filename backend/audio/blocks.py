# pyright: reportUnknownMemberType=false
# PyAV leaves the parameter of Packet open in its type hints.

"""Decode an upload block by block, so that a caller can stop before a bomb unfolds.

Uncompressed containers (WAV, AIFF) go to libsndfile, which knows all their sample formats.
Everything compressed goes to FFmpeg (through PyAV) with the demuxer named, never guessed: guessing
would also try playlists, which name other files. MP3 and FLAC are not read with libsndfile either:
it takes the length of an MP3 without a Xing frame from its first bit rate and drops the rest, and
it cannot read a FLAC whose length is open.
"""

from __future__ import annotations

import io
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import av
import av.error
import numpy as np
import soundfile as sf  # pyright: ignore[reportMissingTypeStubs]

from backend.audio.sniff import InputKind
from backend.core.errors import InvalidAudioError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from numpy.typing import NDArray

MAX_CHANNELS = 7
"""PyAV 18 reads beyond the end of a planar frame of 8 channels, which ends the process."""

_BLOCK_VALUES = 65_536  # samples of all channels together, so that channels cost no memory

_DEMUXERS: Final[Mapping[InputKind, str]] = {
    InputKind.FLAC: "flac",
    InputKind.OGG: "ogg",
    InputKind.MP3: "mp3",
    InputKind.AAC: "aac",
    InputKind.MP4: "mov",
    InputKind.WEBM: "matroska",
}


_CODECS: Final = (
    *("aac", "alac", "flac", "mp2", "mp3", "mp3float", "opus", "speex", "vorbis"),
    *("pcm_f32le", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32le", "pcm_u8"),
)
"""The decoders that people's recordings need, out of hundreds that FFmpeg would try."""


@dataclass(frozen=True, slots=True)
class Block:
    """The next piece of a recording.

    Attributes:
        samples: ``[S, C]`` float32.
        sample_rate: In Hz.
        codec: What it was stored as, for people.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    codec: str


@contextmanager
def open_blocks(kind: InputKind, data: bytes) -> Generator[Iterator[Block]]:
    """Open a recording; the blocks are decoded while they are taken.

    Args:
        kind: The container.
        data: The file, beginning with the container's first byte.

    Raises:
        InvalidAudioError: On entering or while blocks are taken: the data is damaged, or holds no
            sound that can be decoded.
    """
    blocks = _ffmpeg_blocks(data, kind) if kind in _DEMUXERS else _sndfile_blocks(data, kind)
    with closing(blocks):
        yield blocks


def _damaged(kind: InputKind, detail: str | None) -> InvalidAudioError:
    what = (detail or "it cannot be decoded").strip(" .")
    return InvalidAudioError(
        f"the {kind} recording is damaged or truncated ({what}); upload the complete file or "
        "export it again"
    )


def _check_channels(num_channels: int, kind: InputKind) -> None:
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InvalidAudioError(
            f"the {kind} recording has {num_channels} channels; at most {MAX_CHANNELS} are "
            "accepted, so export it in mono"
        )


def _sndfile_blocks(data: bytes, kind: InputKind) -> Generator[Block]:
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            _check_channels(file.channels, kind)
            num_rows = _BLOCK_VALUES // file.channels
            while True:
                samples = file.read(num_rows, "float32", always_2d=True)
                if not samples.size:
                    return
                yield Block(samples.astype(np.float32, copy=False), file.samplerate, file.subtype)
    except sf.LibsndfileError as error:
        raise _damaged(kind, error.error_string) from error


def _ffmpeg_blocks(data: bytes, kind: InputKind) -> Generator[Block]:
    try:
        options = {"codec_whitelist": ",".join(_CODECS)}
        with av.open(
            io.BytesIO(data),
            "r",
            format=_DEMUXERS[kind],
            container_options=options,
            metadata_errors="replace",  # tags in Latin-1 are everywhere
        ) as container:
            if not container.streams.audio:
                raise InvalidAudioError(f"the {kind} file holds no sound track")
            stream = container.streams.audio[0]
            codec = _codec_name(stream)
            if codec not in _CODECS:
                raise InvalidAudioError(
                    f"the codec {codec or 'of unknown name'} in this {kind} file is not accepted; "
                    "export it as AAC, Opus, MP3 or FLAC"
                )
            for frame in container.decode(stream):
                _check_channels(frame.layout.nb_channels, kind)
                if frame.samples:
                    yield Block(_frame_samples(frame), frame.sample_rate, codec)
    except av.error.FFmpegError as error:
        raise _damaged(kind, error.strerror) from error


def _codec_name(stream: AudioStream) -> str | None:
    # PyAV's type hints leave out that a codec FFmpeg does not know has no context.
    context = cast("AudioCodecContext | None", stream.codec_context)
    return context.name if context is not None else None


def _frame_samples(frame: AudioFrame) -> NDArray[np.float32]:
    """Give an FFmpeg frame of any sample format as ``[S, C]`` float32 in -1..1."""
    raw = frame.to_ndarray()  # [C, S] when planar, [1, S * C] when packed
    num_channels = frame.layout.nb_channels
    rows = raw.T if frame.format.is_planar else raw.reshape(-1, num_channels)
    if raw.dtype.kind == "f":
        return rows.astype(np.float32)
    full_scale = np.float32(2.0 ** (8 * raw.dtype.itemsize - 1))
    values = rows.astype(np.float32)
    if raw.dtype.kind == "u":
        values -= full_scale
    return values / full_scale
