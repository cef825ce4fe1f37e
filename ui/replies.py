"""What the backend answers, as values. Fields this version does not know are left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping


QUICK_MARKERS = (
    "(excited)", "(joyful)", "(sad)", "(angry)", "(surprised)", "(whispering)", "(soft tone)",
    "(in a hurry tone)", "(shouting)", "(laughing)", "(sighing)",
)  # fmt: skip
"""Offered without opening the list of all."""


class Reply(BaseModel):
    """An answer of the backend."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Voice(Reply):
    """A voice to choose by name."""

    name: str
    description: str = ""
    language: str = ""
    text: str = ""
    tags: tuple[str, ...] = ()
    consent: str = ""
    duration_s: float | None = None
    is_default: bool = False
    is_builtin: bool = False
    problem: str = ""

    @property
    def label(self) -> str:
        """The name and what tells it apart from others."""
        notes = ", ".join(note for note in (self.description, self.language) if note)
        return f"{self.name} — {notes}" if notes else self.name


class Marker(Reply):
    """One marker, e.g. ``(excited)``, and how it is used."""

    marker: str
    use: str = ""
    example: str = ""
    known_by_model: bool | None = None


class MarkerGroup(Reply):
    """Markers that belong together."""

    name: str
    use: str = ""
    markers: tuple[Marker, ...] = ()

    @property
    def title(self) -> str:
        """The name as a heading."""
        return self.name.replace("_", " ").capitalize()


class Gpu(Reply):
    """One graphics card; what its driver does not report is None."""

    name: str = ""
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    utilization_percent: float | None = None
    temperature_c: float | None = None


class Queue(Reply):
    """Requests in the engine."""

    running: int
    waiting: int
    max_running: int
    max_waiting: int


class Health(Reply):
    """How the backend is and why.

    ``starting``, ``ready``, ``restarting``, ``failed`` or ``closed``.
    """

    status: str
    detail: str = ""
    model: str = ""
    device: str = ""
    precision: str = ""
    sample_rate: int | None = None
    version: str = ""
    uptime_s: float | None = None
    notes: tuple[str, ...] = ()
    queue: Queue | None = None
    gpus: tuple[Gpu, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it can speak now."""
        return self.status == "ready"

    def is_later_look_at(self, earlier: Health) -> bool:
        """Whether both are about one run of the backend, with the same model."""
        runs_on = (self.uptime_s or 0) >= (earlier.uptime_s or 0)
        return runs_on and self.model == earlier.model


class RequestFigures(Reply):
    """``GET /metrics/requests/{id}``: what one request cost, complete after its last byte."""

    request_id: str = ""
    status: str = ""
    started_at: float | None = None
    voice: str | None = None
    audio_duration_s: float | None = None
    ttfa_ms: float | None = None
    latency_ms: float | None = None
    rtf: float | None = None
    cache: str = ""


class RequestsReply(Reply):
    """``GET /metrics/requests``."""

    requests: tuple[RequestFigures, ...]


class RequestCounts(Reply):
    """Requests since the start."""

    total: int = 0
    in_progress: int = 0
    by_status: dict[str, int] = {}


class CacheCounts(Reply):
    """One cache since the start."""

    hits: int = 0
    misses: int = 0
    entries: int = 0
    size_bytes: int = 0
    budget_bytes: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of the questions that it could answer, 0..1; None before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class Spread(Reply):
    """The latest values of one timing."""

    count: int = 0
    last: float | None = None
    p50: float | None = None
    p95: float | None = None


class BackendMetrics(Reply):
    """``GET /metrics``."""

    uptime_s: float | None = None
    requests: RequestCounts = RequestCounts()
    audio_s: float = 0.0
    latency: dict[str, Spread] = {}
    caches: dict[str, CacheCounts] = {}

    def spread(self, name: str) -> Spread:
        """Give a timing: ``ttfa_s``, ``total_s`` or ``rtf``."""
        return self.latency.get(name, Spread())


@dataclass(frozen=True, slots=True)
class SpeechFacts:
    """What came with a piece of speech; None where the backend did not say.

    Attributes:
        request_id: Names the request in the backend's log.
        seed: Repeats this take.
        sample_rate: Hz.
        voice: The voice that spoke; ``upload`` for a recording, ``none`` for one drawn by the seed.
        warning: Something to know although the speech was made.
        cache: What the backend found in its caches.
        ttfa_ms: From the request to the first sound.
        latency_ms: From the request to the last sound.
        rtf: Compute time over audio time; below 1 is faster than real time.
        audio_duration_s: Length of the speech.
    """

    request_id: str = ""
    seed: int | None = None
    sample_rate: int | None = None
    voice: str = ""
    warning: str = ""
    cache: str = ""
    ttfa_ms: float | None = None
    latency_ms: float | None = None
    rtf: float | None = None
    audio_duration_s: float | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> SpeechFacts:
        """Read them from a response; header names in any case."""
        return cls(
            request_id=headers.get("X-Request-Id", ""),
            seed=_whole(headers.get("X-Seed")),
            sample_rate=_whole(headers.get("X-Sample-Rate")),
            voice=unquote(headers.get("X-Voice", "")),
            warning=headers.get("X-Warning", ""),
            cache=headers.get("X-Cache", ""),
            ttfa_ms=_decimal(headers.get("X-TTFA-Ms")),
            latency_ms=_decimal(headers.get("X-Latency-Ms")),
            rtf=_decimal(headers.get("X-RTF")),
            audio_duration_s=_decimal(headers.get("X-Audio-Duration-S")),
        )

    @property
    def voice_words(self) -> str:
        """Say for people whose voice it is."""
        special = {"upload": "your recording", "none": "a voice drawn by the seed"}
        return special.get(self.voice, self.voice)


class ErrorBody(Reply):
    """The inside of ``{"error": ...}``."""

    message: str
    type: str = ""
    param: str | None = None
    request_id: str | None = None


class ErrorReply(Reply):
    """Every answer that is not a success."""

    error: ErrorBody


class VoicesReply(Reply):
    """``GET /voices``."""

    voices: tuple[Voice, ...]


class Emotions(Reply):
    """``GET /emotions``: the markers, and whether the loaded model knows them (None: unsure)."""

    known_by_model: bool | None = None
    groups: tuple[MarkerGroup, ...] = ()

    @property
    def caution(self) -> str:
        """What to know before using markers; empty when the loaded model knows them."""
        return {
            True: "",
            False: "The loaded model leaves markers out; openaudio-s1-mini speaks them.",
            None: "It is not known whether the loaded model speaks markers.",
        }[self.known_by_model]

    def quick_markers(self) -> list[str]:
        """Give a few much-used markers, without those the loaded model would leave out."""
        markers = [marker for group in self.groups for marker in group.markers]
        known = {marker.marker for marker in markers if marker.known_by_model is not False}
        return [marker for marker in QUICK_MARKERS if marker in known]


def _whole(value: str | None) -> int | None:
    return int(value) if value and value.strip().isdecimal() else None


def _decimal(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        return None
