"""Jobs as values: what is asked for, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.core.types import SamplingParams


class JobStatus(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    """Waits for its turn, or for the engine."""
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    """Stretches are missing; ``resume`` tries them again."""
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED})
"""Nothing more happens by itself."""


@dataclass(frozen=True, slots=True)
class FileWish:
    """The file that was asked for with the job; a download may ask for another.

    Attributes:
        format: A name of ``OUTPUT_FORMATS``.
        sample_rate: In Hz, or None for the model's.
        speed: As in ``Effects``.
        volume_db: As in ``Effects``.
        normalize: As in ``Effects``.
        trim_silence: As in ``FilePlan``.
    """

    format: str = "wav"
    sample_rate: int | None = None
    speed: float = 1.0
    volume_db: float = 0.0
    normalize: bool = False
    trim_silence: bool = False

    def changed(self, format_name: str | None, sample_rate: int | None) -> FileWish:
        """Give it in another format, at that format's own rate unless one is asked for."""
        if format_name is None and sample_rate is None:
            return self
        return replace(self, format=format_name or self.format, sample_rate=sample_rate)


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Everything that decides how a job sounds, so that it can go on after a restart.

    Attributes:
        model: Name of the model that speaks it.
        revision: Of that model; another one would speak in another way.
        sample_rate: Of the model, in Hz.
        frame_length: Samples of one frame of the model's.
        voice: Name of the voice, or None for one drawn by the seed.
        sampling: With the seed.
        file: What comes out.
        warnings: Things to know.
    """

    model: str
    revision: str
    sample_rate: int
    frame_length: int
    voice: str | None
    sampling: SamplingParams
    file: FileWish
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedSegment:
    """A stretch that could not be spoken.

    Attributes:
        idx: Its number, from 0.
        text: Its words.
        error: Why.
    """

    idx: int
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class Job:
    """A long text on its way.

    Attributes:
        id: 32 hexadecimal digits.
        name: For people; may be empty.
        status: Where it is.
        detail: Why it is there, where there is more to say.
        text: Its beginning.
        created_at: UNIX time.
        updated_at: UNIX time of the last change.
        num_chars: Of the whole text.
        num_segments: Stretches the text was cut into.
        done_segments: Those that have been spoken.
        done_chars: Their characters.
        num_frames: Their frames.
        failed: Those that could not be spoken.
        plan: How it sounds.
    """

    id: str
    name: str
    status: JobStatus
    detail: str
    text: str
    created_at: float
    updated_at: float
    num_chars: int
    num_segments: int
    done_segments: int
    done_chars: int
    num_frames: int
    plan: JobPlan
    failed: tuple[FailedSegment, ...] = field(default_factory=tuple)

    @property
    def audio_s(self) -> float:
        """Seconds of speech so far, as the file will have them."""
        samples = self.num_frames * self.plan.frame_length
        return samples / self.plan.sample_rate / self.plan.file.speed
