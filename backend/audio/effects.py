"""Effects on finished speech: speed with the pitch kept, loudness, volume.

The chain is speed -> loudness -> volume -> limiter, each part only when it is asked for. It runs on
a stream with a latency of at most half a second of sound, or on a whole file. Speed, volume and
limiter give the same samples either way; loudness cannot, because a stream's end is not known at
its beginning:

- a whole file is measured by EBU R128 first (FFmpeg's ``ebur128``) and gets one constant gain;
- a stream is held back until its first 400 ms are measured, and from then on its gain follows the
  integrated loudness of everything heard so far, by at most ``SLEW_DB_PER_S``.

The target is ``TARGET_LUFS`` as heard from two speakers; measured on the one channel of the file
that is 3 LU less, -19 LUFS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backend.audio.filters import FilterStream
from backend.core.errors import GenerationError, InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.audio.filters import Piece

MIN_SPEED, MAX_SPEED = 0.5, 2.0
MIN_VOLUME_DB, MAX_VOLUME_DB = -20.0, 20.0

TARGET_LUFS = -16.0
MAX_LOUDNESS_GAIN_DB = 20.0
"""What is quieter than this below the target is noise rather than speech."""

SLEW_DB_PER_S = 6.0
PEAK_LIMIT = 10 ** (-1 / 20)
"""-1 dBFS: room for what lossy codecs add."""

_UNMEASURED_LUFS = -70.0  # R128's absolute gate: nothing louder was heard
_HELD_BLOCKS = 4  # of 100 ms: R128 measures blocks of 400 ms
_INTEGRATED = "lavfi.r128.I"


@dataclass(frozen=True, slots=True)
class Effects:
    """What is done to the sound.

    Attributes:
        speed: ``MIN_SPEED`` .. ``MAX_SPEED``; 2 is twice as fast.
        volume_db: ``MIN_VOLUME_DB`` .. ``MAX_VOLUME_DB``.
        normalize: Bring the loudness to ``TARGET_LUFS``.
    """

    speed: float = 1.0
    volume_db: float = 0.0
    normalize: bool = False

    @property
    def is_off(self) -> bool:
        """Whether the sound stays as it is."""
        return self.speed == 1.0 and self.volume_db == 0.0 and not self.normalize

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InvalidInputError: A value is not a number or outside its range.
        """
        for name, value, lowest, highest in (
            ("speed", self.speed, MIN_SPEED, MAX_SPEED),
            ("volume", self.volume_db, MIN_VOLUME_DB, MAX_VOLUME_DB),
        ):
            if not lowest <= value <= highest:  # NaN is refused here as well
                raise InvalidInputError(
                    f"a {name} of {value:g} is not offered; use {lowest:g} to {highest:g}"
                )


class _Part(Protocol):
    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def finish(self) -> NDArray[np.float32]: ...


class EffectsChain:
    """Effects over a stream. Not for use by two threads.

    Life: ``feed`` any number of times -> ``finish`` once. Joined, what comes out has
    ``round(S / speed)`` samples for ``S`` fed ones. With all effects off it is what was fed.

    Args:
        effects: What to do.
        sample_rate: In Hz, before and after.

    Raises:
        InvalidInputError: A value is outside its range.
    """

    def __init__(self, effects: Effects, sample_rate: int) -> None:
        effects.check()
        self._parts: list[_Part] = []
        if effects.speed != 1.0:
            self._parts.append(_Speed(effects.speed, sample_rate))
        if effects.normalize:
            self._parts.append(_Loudness(sample_rate))
        self._parts += _volume_parts(effects, sample_rate)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take ``[S]`` float32 and give the samples that are ready, possibly none.

        Raises:
            GenerationError: A sample is NaN or infinite; filters would keep it for ever.
        """
        if self._parts and not np.isfinite(samples).all():
            raise GenerationError("the model produced samples that are not numbers; try again")
        for part in self._parts:
            samples = part.feed(samples)
        return samples

    def finish(self) -> NDArray[np.float32]:
        """Give what the effects still hold."""
        rest = np.zeros(0, np.float32)
        for part in self._parts:
            rest = np.concatenate([part.feed(rest), part.finish()])
        return rest


def apply_effects(
    samples: NDArray[np.float32], sample_rate: int, effects: Effects
) -> NDArray[np.float32]:
    """Apply effects to a whole file.

    Args:
        samples: ``[S]`` float32.
        sample_rate: In Hz.
        effects: What to do.

    Returns:
        ``[round(S / speed)]`` float32; ``samples`` itself when all effects are off.

    Raises:
        InvalidInputError: A value is outside its range.
        GenerationError: A sample is NaN or infinite.
    """
    if effects.is_off:
        return samples
    if not effects.normalize:
        return _through(EffectsChain(effects, sample_rate), samples)
    faster = _through(EffectsChain(Effects(speed=effects.speed), sample_rate), samples)
    gain_db = _loudness_gain_db(integrated_lufs(faster, sample_rate)) + effects.volume_db
    return _through(_Limiter(sample_rate), faster * _ratio(gain_db))


def integrated_lufs(samples: NDArray[np.float32], sample_rate: int) -> float | None:
    """Measure the loudness by EBU R128, as heard when both speakers play the mono file.

    Args:
        samples: ``[S]`` float32.
        sample_rate: In Hz.

    Returns:
        LUFS, or None when there is nothing above -70 LUFS or less than 400 ms.
    """
    meter = _meter(sample_rate)
    pieces = [*meter.feed(samples), *meter.finish()]
    figures = [_measured_lufs(facts) for _, facts in pieces if _INTEGRATED in facts]
    return figures[-1] if figures else None


class _Speed:
    """FFmpeg's ``atempo``, whose length is a few milliseconds off, brought to the exact length."""

    def __init__(self, speed: float, sample_rate: int) -> None:
        self._filter = FilterStream("atempo", f"tempo={speed!r}", sample_rate)
        self._speed = speed
        self._num_fed = 0
        self._num_given = 0
        self._surplus = np.zeros(0, np.float32)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        self._num_fed += samples.size
        return self._give(self._filter.feed(samples))

    def finish(self) -> NDArray[np.float32]:
        given = self._give(self._filter.finish())
        missing = round(self._num_fed / self._speed) - self._num_given
        return np.concatenate([given, np.zeros(missing, np.float32)])

    def _give(self, pieces: list[Piece]) -> NDArray[np.float32]:
        """Give what came, but never more than the sound fed so far is worth."""
        ready = np.concatenate([self._surplus, *(samples for samples, _ in pieces)])
        allowed = round(self._num_fed / self._speed) - self._num_given
        given, self._surplus = ready[:allowed], ready[allowed:]
        self._num_given += given.size
        return given


class _Loudness:
    """A gain that follows the integrated loudness of the sound so far, 100 ms at a time."""

    def __init__(self, sample_rate: int) -> None:
        self._meter = _meter(sample_rate)
        self._sample_rate = sample_rate
        self._held: list[NDArray[np.float32]] | None = []
        self._gain_db: float | None = None

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._level(self._meter.feed(samples))

    def finish(self) -> NDArray[np.float32]:
        given = self._level(self._meter.finish())
        held, self._held = self._held or [], None
        return np.concatenate([given, *held])  # too short to be measured

    def _level(self, pieces: list[Piece]) -> NDArray[np.float32]:
        leveled = [self._level_block(samples, facts) for samples, facts in pieces]
        return np.concatenate(leveled) if leveled else np.zeros(0, np.float32)

    def _level_block(
        self, samples: NDArray[np.float32], facts: dict[str, str]
    ) -> NDArray[np.float32]:
        if self._held is not None:
            self._held.append(samples)
            if len(self._held) < _HELD_BLOCKS:
                return samples[:0]
            samples, self._held = np.concatenate(self._held), None
        lufs = _measured_lufs(facts)
        if lufs is None:
            # The end of the sound, or nothing but silence so far.
            return samples * _ratio(self._gain_db or 0.0)
        wanted_db = _loudness_gain_db(lufs)
        start_db = wanted_db if self._gain_db is None else self._gain_db
        most_db = SLEW_DB_PER_S * samples.size / self._sample_rate
        self._gain_db = start_db + float(np.clip(wanted_db - start_db, -most_db, most_db))
        ramp_db = np.linspace(start_db, self._gain_db, samples.size + 1, dtype=np.float32)[1:]
        return (samples * 10 ** (ramp_db / 20)).astype(np.float32)


class _Volume:
    def __init__(self, gain_db: float) -> None:
        self._ratio = _ratio(gain_db)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return samples * self._ratio

    def finish(self) -> NDArray[np.float32]:
        return np.zeros(0, np.float32)


class _Limiter:
    """Keep peaks at ``PEAK_LIMIT``; what stays below passes untouched."""

    def __init__(self, sample_rate: int) -> None:
        # level=0: no make-up gain; latency=1: the look-ahead's delay is taken out again
        options = f"limit={PEAK_LIMIT:.6f}:attack=5:release=50:level=0:latency=1"
        self._filter = FilterStream("alimiter", options, sample_rate)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return _joined(self._filter.feed(samples))

    def finish(self) -> NDArray[np.float32]:
        return _joined(self._filter.finish())


def _volume_parts(effects: Effects, sample_rate: int) -> list[_Part]:
    parts: list[_Part] = [_Volume(effects.volume_db)] if effects.volume_db else []
    if effects.normalize or effects.volume_db > 0:
        parts.append(_Limiter(sample_rate))
    return parts


def _meter(sample_rate: int) -> FilterStream:
    # dualmono: loudness as it is heard when both speakers play the one channel
    return FilterStream("ebur128", "metadata=1:dualmono=1", sample_rate)


def _measured_lufs(facts: dict[str, str]) -> float | None:
    lufs = float(facts.get(_INTEGRATED, "nan"))
    return lufs if lufs > _UNMEASURED_LUFS else None  # NaN is not


def _loudness_gain_db(lufs: float | None) -> float:
    if lufs is None:
        return 0.0
    return float(np.clip(TARGET_LUFS - lufs, -MAX_LOUDNESS_GAIN_DB, MAX_LOUDNESS_GAIN_DB))


def _ratio(gain_db: float) -> np.float32:
    return np.float32(10 ** (gain_db / 20))


def _joined(pieces: list[Piece]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *(samples for samples, _ in pieces)])


def _through(part: _Part | EffectsChain, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([part.feed(samples), part.finish()])
