"""What the API's side and the engine's side say to each other.

Commands go down, events come up: plain values, so that a pipe can carry them. They are the same for
an engine in a thread and in a process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.contract import Engine
    from backend.core.types import (
        AudioChunk,
        CacheCounters,
        EngineInfo,
        SynthesisRequest,
        SynthesisSummary,
    )
    from backend.serving.scheduler import Scheduler

Verb: TypeAlias = Literal["encode_reference", "prompt_length", "clear_caches"]
"""Engine calls that have one answer."""


class EngineSource(Protocol):
    """How to make an engine, as a value: it is pickled for an engine in another process."""

    def prepare_process(self) -> None:
        """Set up a process that was started for the engine alone (logging)."""
        ...

    def load(self) -> Engine:
        """Load the engine; called on the thread that will own it.

        Raises:
            TTSError: Settings or files are at fault; another try would fail as well.
        """
        ...

    def make_scheduler(self, engine: Engine) -> Scheduler:
        """Make what decides the engine's next step."""
        ...


@dataclass(frozen=True, slots=True)
class Submit:
    """Queue a request."""

    request: SynthesisRequest


@dataclass(frozen=True, slots=True)
class Grant:
    """Let a request's listener take one more chunk."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Call:
    """Call the engine and answer."""

    call_id: int
    verb: Verb
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody waits for the answer of a call any more."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer between two steps."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End after the step at hand."""


Command: TypeAlias = Submit | Grant | Cancel | Call | Abandon | Ping | Stop


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine can serve."""

    info: EngineInfo
    max_running: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """There will be no engine.

    Attributes:
        reason: Why, for people.
        is_final: Settings or files are at fault: another try would fail as well.
    """

    reason: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class Began:
    """A request is about to be worked on."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Audio:
    """The next samples of a request."""

    request_id: str
    chunk: AudioChunk


@dataclass(frozen=True, slots=True)
class Finished:
    """A request's end."""

    request_id: str
    summary: SynthesisSummary


@dataclass(frozen=True, slots=True)
class Failed:
    """A request's end that should not have been."""

    request_id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Answered:
    """The result of a call."""

    call_id: int
    value: Any


@dataclass(frozen=True, slots=True)
class Refused:
    """A call failed."""

    call_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """Device memory now and at its peak, where the device tells, and the engine's own caches."""

    memory_bytes: int | None
    peak_memory_bytes: int | None
    caches: dict[str, CacheCounters] = field(default_factory=dict[str, "CacheCounters"])


@dataclass(frozen=True, slots=True)
class Pong:
    """The engine's thread is between two steps."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The engine cannot go on; everything that runs in it is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The thread or process is gone. Always the last event."""

    reason: str


Event: TypeAlias = (
    Loaded
    | LoadFailed
    | Began
    | Audio
    | Finished
    | Failed
    | Answered
    | Refused
    | MemoryRead
    | Pong
    | Crashed
    | Ended
)
Emit: TypeAlias = "Callable[[Event], None]"
"""Takes an event on the engine's thread; must not wait for whoever reads it."""
Deliver: TypeAlias = "Callable[[tuple[Event, ...]], None]"
"""Takes the next events, in order, on any thread."""


class Transport(Protocol):
    """One life of an engine, in a thread or a process. Called from the event loop's thread.

    Life: made -> ``start`` -> any number of ``send`` -> ``close``. The last event is ``Ended``,
    whatever ended it.
    """

    @property
    def can_restart(self) -> bool:
        """Whether a further life may follow when this one ended by itself."""
        ...

    @property
    def pid(self) -> int | None:
        """The engine's own process, while there is one."""
        ...

    def start(self) -> None:
        """Begin to load; returns at once."""
        ...

    def send(self, command: Command) -> None:
        """Hand a command over; never blocks, and does nothing after the end."""
        ...

    def kill(self) -> None:
        """End it without asking, where that is possible."""
        ...

    async def close(self) -> None:
        """Ask it to end, and make it end when it does not within a bound."""
        ...
