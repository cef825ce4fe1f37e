"""The output formats, in one table: names, media types, extensions, sample rates.

Everything that lists formats (request schema, OpenAPI, pages, error messages) reads it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from backend.core.errors import UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 96_000
MAX_ASKED_RATE_HZ = 48_000
"""Higher rates come from models alone: asking for one would only make the file larger."""

AI_GENERATED_COMMENT = "AI-generated speech"
"""Comment tag written into every container that has room for one."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One way to hand speech out.

    Attributes:
        name: What a request says, for example ``"mp3"``.
        media_type: Value of ``Content-Type``.
        extension: File extension without the dot.
        description: One line for people.
        sample_rates_hz: The rates the codec can carry, ascending; empty means any rate from
            ``MIN_SAMPLE_RATE_HZ`` to ``MAX_SAMPLE_RATE_HZ``.
        is_streamable: A client can play it while it is still being made.
        is_lossless: The decoded samples are the fed ones, rounded to 16 bits.
        has_comment: The container carries ``AI_GENERATED_COMMENT``.
        bitrates_kbps: Lowest and highest bit rate one may ask for; None where there is no choice.
    """

    name: str
    media_type: str
    extension: str
    description: str
    sample_rates_hz: tuple[int, ...]
    is_streamable: bool
    is_lossless: bool
    has_comment: bool
    bitrates_kbps: tuple[int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the samples are written as they are, nothing computed from them."""
        return self.name in ("pcm", "wav")

    def check_bitrate(self, bitrate_kbps: int | None) -> None:
        """Refuse a bit rate that the codec cannot be asked for; None is always fine.

        Raises:
            UnsupportedFormatError: The format has no bit rate, or not this one.
        """
        if bitrate_kbps is None:
            return
        if self.bitrates_kbps is None:
            raise UnsupportedFormatError(
                f"{self.name} has no bit rate to choose; leave it out, or take mp3, opus or aac"
            )
        lowest, highest = self.bitrates_kbps
        if not lowest <= bitrate_kbps <= highest:
            raise UnsupportedFormatError(
                f"a bit rate of {bitrate_kbps} kbit/s is not offered for {self.name}; use "
                f"{lowest} to {highest}"
            )

    def file_rate_hz(self, sample_rate: int, asked_hz: int | None) -> int:
        """Give the rate of a file: the one that was asked for, else ``output_rate_hz``.

        Args:
            sample_rate: Of the sound, in Hz.
            asked_hz: ``MIN_SAMPLE_RATE_HZ`` .. ``MAX_ASKED_RATE_HZ``, or None.

        Raises:
            UnsupportedFormatError: The format cannot carry what was asked for.
        """
        if asked_hz is None:
            return self.output_rate_hz(sample_rate)
        if not MIN_SAMPLE_RATE_HZ <= asked_hz <= MAX_ASKED_RATE_HZ:
            raise UnsupportedFormatError(
                f"a sample_rate of {asked_hz} Hz is not offered; use {MIN_SAMPLE_RATE_HZ} to "
                f"{MAX_ASKED_RATE_HZ} Hz"
            )
        if self.sample_rates_hz and asked_hz not in self.sample_rates_hz:
            offered = ", ".join(map(str, self.sample_rates_hz))
            raise UnsupportedFormatError(
                f"{self.name} cannot carry a sample_rate of {asked_hz} Hz; use one of: {offered}"
            )
        return asked_hz

    def output_rate_hz(self, sample_rate: int) -> int:
        """Give the rate that sound of ``sample_rate`` Hz is encoded at.

        The smallest rate the codec can carry that loses no band; the largest one if none does.

        Raises:
            UnsupportedFormatError: The rate is outside the range that is offered.
        """
        if not MIN_SAMPLE_RATE_HZ <= sample_rate <= MAX_SAMPLE_RATE_HZ:
            raise UnsupportedFormatError(
                f"a sample rate of {sample_rate} Hz is not offered; use "
                f"{MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} Hz"
            )
        if not self.sample_rates_hz:
            return sample_rate
        wide_enough = [rate for rate in self.sample_rates_hz if rate >= sample_rate]
        return wide_enough[0] if wide_enough else self.sample_rates_hz[-1]


_MPEG_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)

_TABLE = (
    OutputFormat(
        name="wav",
        media_type="audio/wav",
        extension="wav",
        description="16-bit WAV, plays everywhere; streams with an open-ended header",
        sample_rates_hz=(),
        is_streamable=True,
        is_lossless=True,
        has_comment=True,
    ),
    OutputFormat(
        name="pcm",
        # Not audio/L16: RFC 2586 defines that as big-endian.
        media_type="audio/pcm",
        extension="pcm",
        description="raw 16-bit little-endian mono samples without a header",
        sample_rates_hz=(),
        is_streamable=True,
        is_lossless=True,
        has_comment=False,
    ),
    OutputFormat(
        name="mp3",
        media_type="audio/mpeg",
        extension="mp3",
        description="MP3 at 128 kbit/s",
        sample_rates_hz=_MPEG_RATES_HZ,
        is_streamable=True,
        is_lossless=False,
        has_comment=True,
        bitrates_kbps=(8, 320),
    ),
    OutputFormat(
        name="flac",
        media_type="audio/flac",
        extension="flac",
        description="lossless 16-bit FLAC, about half of the WAV's size",
        sample_rates_hz=(),
        is_streamable=True,
        is_lossless=True,
        has_comment=True,
    ),
    OutputFormat(
        name="opus",
        media_type="audio/ogg",
        extension="opus",
        description="Opus in Ogg at 64 kbit/s, the smallest for its quality",
        sample_rates_hz=_OPUS_RATES_HZ,
        is_streamable=True,
        is_lossless=False,
        has_comment=True,
        bitrates_kbps=(6, 256),
    ),
    OutputFormat(
        name="aac",
        media_type="audio/aac",
        extension="aac",
        description="AAC (ADTS) at 128 kbit/s, for Apple devices",
        sample_rates_hz=_MPEG_RATES_HZ,
        is_streamable=True,
        is_lossless=False,
        has_comment=False,
        bitrates_kbps=(16, 256),
    ),
)

OUTPUT_FORMATS: Mapping[str, OutputFormat] = MappingProxyType({f.name: f for f in _TABLE})
"""Every output format by name, in the order they are shown to people."""


def output_format(name: str) -> OutputFormat:
    """Look a format up by the name a request uses; case and surrounding spaces do not matter.

    Raises:
        UnsupportedFormatError: No such format; the message lists the offered ones.
    """
    found = OUTPUT_FORMATS.get(name.strip().lower())
    if found is None:
        offered = ", ".join(OUTPUT_FORMATS)
        raise UnsupportedFormatError(f"format {name[:40]!r} is not offered; use one of: {offered}")
    return found
