from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from backend.core.errors import (
    EngineDiedError,
    EngineUnavailableError,
    GenerationError,
    QueueFullError,
    ServiceClosedError,
)
from backend.core.types import (
    AudioChunk,
    CacheCounters,
    EngineState,
    EngineStatus,
    SynthesisRequest,
    SynthesisSummary,
    Turn,
)
from backend.replicas import remote_engine
from backend.replicas.protocol import GRANT_CHUNKS, WINDOW_CHUNKS, voice_key
from backend.replicas.remote_engine import RemoteEngineClient
from tests.fakes import FAKE_INFO, FakeEngineClient
from tests.unit.replicas.loopback import LoopbackReplicas

TEXT = "some words that take a few chunks"


@pytest.fixture
async def replicas(monkeypatch: pytest.MonkeyPatch) -> LoopbackReplicas:
    monkeypatch.setattr(remote_engine, "ASK_EVERY_S", 0.0)
    made = LoopbackReplicas()
    await made.open()
    return made


@pytest.fixture
async def client(replicas: LoopbackReplicas) -> AsyncIterator[RemoteEngineClient]:
    made = RemoteEngineClient(lambda: replicas)
    await made.start()
    await made.wait_ready()
    yield made
    await made.close()


async def samples_of(client: RemoteEngineClient | FakeEngineClient, text: str = TEXT) -> np.ndarray:
    chunks = [
        result.samples
        async for result in client.synthesize(SynthesisRequest("a", text))
        if isinstance(result, AudioChunk)
    ]
    return np.concatenate(chunks)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for needs turns of the loop
        await asyncio.sleep(0)


async def test_speech_is_that_of_the_engine(client: RemoteEngineClient) -> None:
    alone = FakeEngineClient()
    await alone.start()
    await alone.wait_ready()
    results = [r async for r in client.synthesize(SynthesisRequest("a", TEXT))]
    assert isinstance(results[-1], SynthesisSummary)
    assert np.array_equal(await samples_of(client), await samples_of(alone))


async def test_one_engine_that_is_two(client: RemoteEngineClient) -> None:
    assert client.info == FAKE_INFO
    status = client.status()
    assert status.state is EngineState.READY
    assert status.max_running == 8


async def test_the_voice_goes_along(client: RemoteEngineClient, replicas: LoopbackReplicas) -> None:
    turn = Turn("Hello.", np.ones((3, 4), dtype=np.int32))
    async for _ in client.synthesize(SynthesisRequest("a", "hi", turns=(turn,))):
        pass
    assert replicas.routes[0].voice == voice_key((turn,))


async def test_closing_frees_the_slot(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    results = client.synthesize(SynthesisRequest("a", TEXT))
    await anext(results)
    engine = next(engine for engine in replicas.engines.values() if engine.requests)
    assert not engine.idle.is_set()
    await results.aclose()
    assert engine.idle.is_set()


async def test_a_listener_that_takes_nothing_pauses_its_stream(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for engine in replicas.engines.values():
        engine.frames_per_chunk = 1
    num_taken = 0
    async for result in client.synthesize(SynthesisRequest("a", "x" * 40)):
        num_taken += isinstance(result, AudioChunk)
    assert num_taken == 80
    assert sum(replicas.granted.values()) == num_taken // GRANT_CHUNKS * GRANT_CHUNKS


async def test_without_grants_a_replica_sends_a_window(replicas: LoopbackReplicas) -> None:
    replica = replicas.replicas["r0"]
    replicas.engines["r0"].frames_per_chunk = 1
    items = replica.stream("s", SynthesisRequest("a", "x" * 40))
    for _ in range(1 + WINDOW_CHUNKS + 1):  # the opening, the window, and the one that waits
        await anext(items)
    waiting = asyncio.ensure_future(anext(items))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    replica.grant("s", 1)
    assert isinstance(await waiting, AudioChunk)
    replica.grant("another", 1)  # of a stream that has ended: nothing happens
    await items.aclose()


async def test_speech_of_a_replica_that_dies_ends_clearly(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for engine in replicas.engines.values():
        engine.permits = asyncio.Semaphore(1)
    results = client.synthesize(SynthesisRequest("a", TEXT))
    await anext(results)
    name = next(name for name, engine in replicas.engines.items() if engine.requests)
    replicas.kill(name)
    with pytest.raises(EngineDiedError, match="the sound ends here"):
        await anext(results)
    await until(lambda: client.status().max_running == 4)
    status = client.status()
    assert (status.state, status.streams_broken, status.restarts) == (EngineState.READY, 1, 1)


async def test_what_had_no_sound_begins_anew_elsewhere(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for engine in replicas.engines.values():
        engine.permits = asyncio.Semaphore(0)
    speaking = asyncio.ensure_future(samples_of(client))
    await until(lambda: any(engine.requests for engine in replicas.engines.values()))
    replicas.kill(next(name for name, engine in replicas.engines.items() if engine.requests))
    for engine in replicas.engines.values():
        engine.permits = None
    assert len(await speaking)
    assert client.status().streams_broken == 0


async def test_a_request_that_kills_two_replicas_is_given_up(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for engine in replicas.engines.values():
        engine.permits = asyncio.Semaphore(0)
    speaking = asyncio.ensure_future(samples_of(client))
    for name in ("r0", "r1"):
        await replicas.engines[name].has_request.wait()
        replicas.kill(name)
    with pytest.raises(EngineDiedError, match="again, before there was any sound"):
        await speaking


async def test_without_a_replica_the_engine_is_restarting(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for name in replicas.engines:
        replicas.kill(name)
    await until(lambda: client.status().state is EngineState.RESTARTING)
    assert "new one is being started" in client.status().detail
    assert client.status().takes_requests


async def test_a_question_that_fails_is_asked_again(
    client: RemoteEngineClient,
    replicas: LoopbackReplicas,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> list[object]:
        raise ValueError("Ray has changed")

    with monkeypatch.context() as patched:
        patched.setattr(replicas, "reports", fail)
        await until(lambda: "Ray has changed" in caplog.text)
    for name in replicas.engines:
        replicas.kill(name)
    await until(lambda: client.status().state is EngineState.RESTARTING)


async def test_errors_keep_their_class(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    for engine in replicas.engines.values():
        engine.num_refusals = 1
    with pytest.raises(QueueFullError) as caught:
        await samples_of(client)
    assert caught.value.retry_after_s == 0.0
    for engine in replicas.engines.values():
        engine.num_refusals, engine.fail_at_frame = 0, 7
    with pytest.raises(GenerationError):
        await samples_of(client)


async def test_calls_are_answered_by_any_replica_and_asked_again(
    client: RemoteEngineClient, replicas: LoopbackReplicas
) -> None:
    samples = np.zeros(640, dtype=np.float32)
    for engine in replicas.engines.values():
        engine.may_encode.clear()
    encoding = asyncio.ensure_future(client.encode_reference(samples))
    await until(lambda: any(engine.encoded for engine in replicas.engines.values()))
    replicas.kill(next(name for name, engine in replicas.engines.items() if engine.encoded))
    for engine in replicas.engines.values():
        engine.may_encode.set()
    assert (await encoding).shape == (3, 2)
    assert await client.prompt_length("hello", ()) > 0


async def test_caches_of_all_replicas_are_emptied(client: RemoteEngineClient) -> None:
    assert await client.clear_caches() == {"prefix_kv": 0}


async def test_before_the_start_and_after_the_end() -> None:
    client = RemoteEngineClient(LoopbackReplicas)
    with pytest.raises(EngineUnavailableError, match="starting"):
        await client.prompt_length("hello", ())
    assert client.status().state is EngineState.STARTING
    await client.close()
    with pytest.raises(ServiceClosedError):
        await client.prompt_length("hello", ())
    assert client.status().state is EngineState.CLOSED


async def test_closing_ends_the_wait_for_a_replica() -> None:
    client = RemoteEngineClient(lambda: LoopbackReplicas(0))
    await client.start()
    waiting = asyncio.ensure_future(client.wait_ready())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ServiceClosedError):
        await waiting


async def test_a_lost_engine_fails_its_replicas_health(replicas: LoopbackReplicas) -> None:
    replica = replicas.replicas["r0"]
    replica.check_health()
    await replica.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        replica.check_health()


def test_caches_add_up() -> None:
    counters = CacheCounters(1, 2, 3, 4, 5, 6)
    statuses = [EngineStatus(EngineState.READY, caches={"prefix_kv": counters})] * 2
    assert remote_engine._add_up(statuses) == {"prefix_kv": CacheCounters(2, 4, 6, 8, 10, 12)}
