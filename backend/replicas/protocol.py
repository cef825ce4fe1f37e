"""What the API's side and a replica of the engine say to each other: plain values.

A stream of speech is one call with many answers: ``Opened`` first, then what an engine client
gives, or the ``TTSError`` that ended it. While it runs, the listener's side grants further chunks
to the replica that ``Opened`` named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from backend.core.errors import TTSError
from backend.core.types import AudioChunk, EngineInfo, EngineStatus, SynthesisSummary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Any

    from backend.core.types import SynthesisRequest, Turn

GRANT_CHUNKS = 4
"""Chunks that are granted with one message."""
WINDOW_CHUNKS = 2 * GRANT_CHUNKS
"""Chunks that a replica sends ahead of what was granted."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call should go; always its first argument, because the router reads it.

    Attributes:
        voice: Names the voice; calls with the same one should meet again. Empty: any replica.
        replica: The one replica that is meant; empty: any.
    """

    voice: str = ""
    replica: str = ""


ANYWHERE = Route()


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream's first answer: which replica speaks it."""

    replica: str


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A replica as it is now.

    Attributes:
        replica: Its name.
        info: Facts about its engine.
        status: Its engine now.
    """

    replica: str
    info: EngineInfo
    status: EngineStatus


StreamItem: TypeAlias = Opened | AudioChunk | SynthesisSummary | TTSError
Verb: TypeAlias = Literal["encode_reference", "prompt_length"]
"""Calls that any replica can answer."""


class ReplicaLostError(Exception):
    """A replica is gone; what it was asked for has to be asked of another one."""


class Replicas(Protocol):
    """The replicas as the API's process reaches them. Fulfilled with Ray, and by fakes."""

    def stream(
        self, route: Route, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[StreamItem, None]:
        """Begin to speak; closing the generator cancels it on the replica.

        Raises:
            ReplicaLostError: The replica died, before or after the first answer.
            TTSError: Nothing was begun.
        """
        ...

    def grant(self, replica: str, stream_id: str, num_chunks: int) -> None:
        """Let a stream's replica send further chunks; returns at once."""
        ...

    async def call(self, verb: Verb, args: tuple[Any, ...]) -> Any:
        """Ask any replica.

        Raises:
            ReplicaLostError: It died.
            TTSError: As the engine's verb.
        """
        ...

    async def clear_caches(self) -> list[dict[str, int]]:
        """Empty the caches of every replica.

        Raises:
            ReplicaLostError: One died meanwhile, or there is none.
        """
        ...

    async def reports(self) -> list[ReplicaReport]:
        """Ask every replica how it is; those that do not answer are left out."""
        ...


def voice_key(turns: Sequence[Turn]) -> str:
    """Name a voice by the content of its first recording; empty without one.

    Later turns are further recordings and what was said so far, so they must not count.
    """
    if not turns:
        return ""
    first = turns[0]
    digest = hashlib.sha256(first.text.encode())
    digest.update(first.codes.tobytes())
    return digest.hexdigest()
