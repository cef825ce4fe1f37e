"""Sound in, the bytes of a file out: while it is made, or as one whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.audio.effects import Effects, EffectsChain, apply_effects
from backend.audio.encoders import AudioEncoder, encode_whole, make_encoder
from backend.audio.formats import OutputFormat, output_format
from backend.audio.trim import SilenceTrim, trim_silence
from backend.telemetry.recent import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from numpy.typing import NDArray

    from backend.service.cpu_pool import CpuPool
    from backend.service.ledger import SpeechLedger
    from backend.service.requests import SpeechRequest

MOST_AT_ONCE = 1 << 17
"""Samples of which plain ones are rounded where they are: 0.3 ms. More go to a thread."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """The file that is wanted, all checked.

    Attributes:
        output: Its format.
        sound_rate_hz: Of the samples it is made from.
        file_rate_hz: Of the sound inside it; None keeps the other where the format can.
        bitrate_kbps: Of a lossy format; None takes its usual one.
        effects: What is done to the sound before.
        trim_silence: Take silence at the beginning and the end away, before everything else.
    """

    output: OutputFormat
    sound_rate_hz: int
    file_rate_hz: int | None = None
    bitrate_kbps: int | None = None
    effects: Effects = field(default_factory=Effects)
    trim_silence: bool = False

    @property
    def sample_rate(self) -> int:
        """Hz of the sound inside the file."""
        return self.output.file_rate_hz(self.sound_rate_hz, self.file_rate_hz)

    @property
    def is_quick(self) -> bool:
        """Whether numbers are only rounded on the way to bytes."""
        is_same = self.effects.is_off and not self.trim_silence
        return is_same and self.output.is_plain and self.sample_rate == self.sound_rate_hz


def plan_file(request: SpeechRequest, sound_rate_hz: int) -> FilePlan:
    """Decide on the file that a request asks for.

    Raises:
        UnsupportedFormatError: The format is not offered, or not with this sample or bit rate.
        InvalidInputError: An effect is outside its range.
    """
    output = output_format(request.format)
    output.check_bitrate(request.bitrate_kbps)
    output.file_rate_hz(sound_rate_hz, request.sample_rate)
    effects = Effects(request.speed, request.volume_db, request.normalize)
    effects.check()
    return FilePlan(
        output,
        sound_rate_hz,
        request.sample_rate,
        request.bitrate_kbps,
        effects,
        request.trim_silence,
    )


async def streamed_file(
    sound: AsyncGenerator[NDArray[np.float32], None],
    plan: FilePlan,
    pool: CpuPool,
    ledger: SpeechLedger,
) -> AsyncGenerator[bytes, None]:
    """Yield a file's bytes as they are made; never empty ones.

    The header leaves together with the first sound, so that the first bytes mean sound.

    Args:
        sound: ``[S]`` float32 arrays at ``plan.sound_rate_hz``; closed by the caller.
        plan: The file.
        pool: Where effects and encoding run.
        ledger: Gets the time of the first byte and the time spent.
    """
    file = _StreamedFile(plan) if plan.is_quick else await pool.run(_StreamedFile, plan)
    try:
        spent_s = 0.0
        held = file.encoder.header()
        async for samples in sound:
            started = time.monotonic()
            if plan.is_quick and samples.size <= MOST_AT_ONCE:
                data = file.feed(samples)  # sooner done than a thread would begin
            else:
                data = await pool.run(file.feed, samples)
            spent_s += time.monotonic() - started
            ledger.num_trimmed = file.num_trimmed
            if data:
                ledger.note_first_audio()
                yield held + data
                held = b""
        started = time.monotonic()
        last = held + (file.finish() if plan.is_quick else await pool.run(file.finish))
        ledger.num_trimmed = file.num_trimmed
        ledger.add_stage(Stage.FILE, spent_s + time.monotonic() - started)
        ledger.note_first_audio()
        if last:
            yield last
    finally:
        file.encoder.close()


async def whole_file(
    sound: AsyncGenerator[NDArray[np.float32], None],
    plan: FilePlan,
    pool: CpuPool,
    ledger: SpeechLedger,
) -> AsyncGenerator[bytes, None]:
    """Yield one piece: the finished file, whose header states its length.

    Arguments as for ``streamed_file``.
    """
    parts = [part async for part in sound]
    started = time.monotonic()
    data, ledger.num_trimmed = await pool.run(_encode, parts, plan)
    ledger.add_stage(Stage.FILE, time.monotonic() - started)
    ledger.note_first_audio()
    yield data


class _StreamedFile:
    """Effects and encoder in one, so that a chunk goes to a thread once."""

    def __init__(self, plan: FilePlan) -> None:
        self._trim = SilenceTrim(plan.sound_rate_hz) if plan.trim_silence else None
        self._effects = EffectsChain(plan.effects, plan.sound_rate_hz)
        self.encoder: AudioEncoder = make_encoder(
            plan.output.name,
            plan.sound_rate_hz,
            bitrate_kbps=plan.bitrate_kbps,
            file_rate_hz=plan.file_rate_hz,
        )

    @property
    def num_trimmed(self) -> int:
        return 0 if self._trim is None else self._trim.num_dropped

    def feed(self, samples: NDArray[np.float32]) -> bytes:
        if self._trim is not None:
            samples = self._trim.feed(samples)
        return self._encoded(samples)

    def finish(self) -> bytes:
        last = b"" if self._trim is None else self._encoded(self._trim.finish())
        return last + self.encoder.feed(self._effects.finish()) + self.encoder.finish()

    def _encoded(self, samples: NDArray[np.float32]) -> bytes:
        return self.encoder.feed(self._effects.feed(samples))


def _encode(parts: list[NDArray[np.float32]], plan: FilePlan) -> tuple[bytes, int]:
    """Make the whole file; also give the number of samples trimmed."""
    samples, num_trimmed = np.concatenate(parts), 0
    if plan.trim_silence:
        samples, num_trimmed = trim_silence(samples, plan.sound_rate_hz)
    samples = apply_effects(samples, plan.sound_rate_hz, plan.effects)
    content = encode_whole(
        plan.output.name,
        samples,
        plan.sound_rate_hz,
        bitrate_kbps=plan.bitrate_kbps,
        file_rate_hz=plan.file_rate_hz,
    )
    return content, num_trimmed
