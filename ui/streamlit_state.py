"""What the Streamlit page knows of the backend, and what it keeps between two drawings."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from ui.client import BackendClient
from ui.connection import BackendError

if TYPE_CHECKING:
    from ui.replies import BackendMetrics, Emotions, Health, SpeechFacts, Voice

MAX_TAKES = 12
MAX_LOOKS = 200


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the backend is and how it is spoken to.

    A part of the page that draws itself anew opens its own client: the page's is closed by then.
    """

    url: str
    timeout_s: float
    api_key: str

    def open(self) -> BackendClient:
        """Give a client, to be used in a ``with`` block."""
        return BackendClient(self.url, timeout_s=self.timeout_s, api_key=self.api_key)


@dataclass(frozen=True, slots=True)
class BackendState:
    """What the backend says about itself; ``problem`` when it says nothing."""

    health: Health | None = None
    voices: tuple[Voice, ...] = ()
    emotions: Emotions | None = None
    problem: str = ""
    asks_for_key: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether it can speak now."""
        return self.health is not None and self.health.is_ready and not self.problem


@dataclass(frozen=True, slots=True)
class Take:
    """A piece of speech."""

    number: int
    text: str
    audio: bytes
    file_format: str
    facts: SpeechFacts

    @property
    def label(self) -> str:
        """The number and the first words."""
        words = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"{self.number}: {words}"


class Look(NamedTuple):
    """One look at what the backend does; None where it does not say."""

    at: float
    waiting: int
    running: int
    hit_percent: float | None
    gpu_percent: float | None
    gpu_gib: float | None


def look_at(client: BackendClient) -> BackendState:
    """Ask the backend for all that the page shows of it."""
    health: Health | None = None
    try:
        health = client.health()
        if not health.is_ready:
            return BackendState(health=health)
        return BackendState(health, client.voices(), client.emotions())
    except BackendError as error:
        return BackendState(health, problem=error.message, asks_for_key=error.asks_for_key)


def takes() -> list[Take]:
    """Give the visit's takes, oldest first."""
    return st.session_state.setdefault("takes", [])


def keep(text: str, audio: bytes, file_format: str, facts: SpeechFacts) -> None:
    """Put a take on the list; the oldest goes when there are too many."""
    kept = takes()
    number = kept[-1].number + 1 if kept else 1
    kept.append(Take(number, text, audio, file_format, facts))
    del kept[:-MAX_TAKES]


def looks() -> list[Look]:
    """Give the visit's looks at the backend, oldest first."""
    return st.session_state.setdefault("looks", [])


def note_look(at: float, health: Health, metrics: BackendMetrics) -> list[Look]:
    """Add a look to the list and give the list."""
    hits = sum(cache.hits for cache in metrics.caches.values())
    asked = hits + sum(cache.misses for cache in metrics.caches.values())
    gpu = health.gpus[0] if health.gpus else None
    used = gpu.memory_used_mib if gpu else None
    seen = looks()
    seen.append(
        Look(
            at,
            health.queue.waiting if health.queue else 0,
            health.queue.running if health.queue else 0,
            100 * hits / asked if asked else None,
            gpu.utilization_percent if gpu else None,
            None if used is None else used / 1024,
        )
    )
    del seen[:-MAX_LOOKS]
    return seen
