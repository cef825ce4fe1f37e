"""What the backend answers about jobs, as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ui.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENDED = frozenset({"done", "failed", "cancelled"})
"""States in which nothing more happens."""
_DATA = "data:"


class Job(Reply):
    """A long text that is spoken in the background."""

    id: str
    status: str
    name: str = ""
    text: str = ""
    voice: str | None = None
    format: str = "wav"
    num_segments: int = 0
    done_segments: int = 0
    audio_duration_s: float | None = None
    progress: float = 0.0
    error: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name, or the first words."""
        words = self.name or " ".join(self.text.split())
        return (words if len(words) <= 80 else words[:79] + "…") or self.id

    @property
    def fraction(self) -> float:
        """How much is done, 0..1."""
        return max(0.0, min(1.0, self.progress))

    @property
    def progress_words(self) -> str:
        """How much is done, for people."""
        return f"{self.done_segments} of {self.num_segments} stretches"

    @property
    def is_done(self) -> bool:
        """Whether its sound can be fetched."""
        return self.status == "done"

    @property
    def has_sound(self) -> bool:
        """Whether there is something to hear, be it a part."""
        return self.is_done or (not self.can_pause and self.done_segments > 0)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens."""
        return self.status in ENDED

    @property
    def can_resume(self) -> bool:
        """Whether it has been paused, or parts of it failed and can be tried again."""
        return self.status in {"paused", "failed"}

    @property
    def can_pause(self) -> bool:
        """Whether it is on its way."""
        return not self.has_ended and not self.can_resume


class JobsReply(Reply):
    """``GET /jobs``."""

    jobs: tuple[Job, ...]


def events_of(lines: Iterable[str]) -> Iterator[Job]:
    """Read jobs from a stream of server-sent events."""
    for line in lines:
        if line.startswith(_DATA):
            yield Job.model_validate_json(line.removeprefix(_DATA))
