"""Clients over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from backend.core.types import AudioChunk, SynthesisRequest
from backend.worker.client import TransportClient
from backend.worker.process_transport import ProcessTransport
from backend.worker.protocol import Deliver, EngineSource, Transport
from backend.worker.restart_policy import RestartPolicy
from backend.worker.thread_transport import ThreadTransport

AT_ONCE = RestartPolicy(hang_timeout_s=0.2, first_delay_s=0.0, max_delay_s=0.0)
"""Restarts without delay; looks at the (test's own) clock all the time."""

Speak = Callable[..., Awaitable[list[float]]]
Open = Callable[..., AbstractAsyncContextManager[TransportClient]]


@dataclass
class Clock:
    """Seconds that go forward when the test says so."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def client_of(
    source: EngineSource,
    kind: str = "process",
    *,
    max_open: int = 8,
    policy: RestartPolicy = AT_ONCE,
    clock: Clock | None = None,
    stop_timeout_s: float = 30.0,
) -> TransportClient:
    """Make a client over a transport; its clock stands still unless the test moves it."""

    def make(deliver: Deliver) -> Transport:
        if kind == "thread":
            return ThreadTransport(source, deliver)
        return ProcessTransport(source, deliver, stop_timeout_s)

    return TransportClient(make, max_open, policy, clock or Clock())


@asynccontextmanager
async def ready(client: TransportClient) -> AsyncIterator[TransportClient]:
    """Start a client, wait for its engine, close it at the end."""
    await client.start()
    try:
        await client.wait_ready()
        yield client
    finally:
        await client.close()


async def speak(client: TransportClient, name: str, text: str = "5") -> list[float]:
    """Give every sample of a request."""
    samples: list[float] = []
    async for result in client.synthesize(SynthesisRequest(name, text)):
        if isinstance(result, AudioChunk):
            samples += list(result.samples)
    return samples


async def until(condition: Callable[[], bool]) -> None:
    """Give others time; the test's own limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
        await asyncio.sleep(0.001)


@pytest.fixture(params=["thread", "process"])
def kind(request: pytest.FixtureRequest) -> str:
    """Where the engine runs."""
    return str(request.param)
