"""The engine in a thread: start, results, cancellation, limits, failure, end."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from backend.core.contract import Engine
from backend.core.errors import (
    CheckpointError,
    EngineUnavailableError,
    GenerationError,
    QueueFullError,
)
from backend.core.types import AudioChunk, EngineState, SynthesisRequest, SynthesisSummary
from backend.worker.thread_client import EngineThread
from tests.unit.serving.scripted_engine import INFO, ScriptedEngine


def client_of(load: Callable[[], Engine], max_open: int = 8) -> EngineThread:
    return EngineThread(load, max_chunk_frames=8, max_open=max_open)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def client(engine: ScriptedEngine) -> AsyncIterator[EngineThread]:
    client = client_of(lambda: engine)
    await client.start()
    await client.wait_ready()
    yield client
    await client.close()


async def speak(client: EngineThread, name: str, text: str = "5") -> list[float]:
    samples: list[float] = []
    async for result in client.synthesize(SynthesisRequest(name, text)):
        if isinstance(result, AudioChunk):
            samples += list(result.samples)
    return samples


async def until(condition: Callable[[], bool]) -> None:
    """Give the other thread time; the test's own limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
        await asyncio.sleep(0)


async def test_a_ready_client_knows_its_engine(client: EngineThread, engine: ScriptedEngine):
    assert client.info == INFO
    assert client.status().state is EngineState.READY
    assert client.status().max_running == engine.max_slots
    assert "warm_up" in engine.log


async def test_audio_comes_in_order_and_then_one_summary(client: EngineThread):
    results = [result async for result in client.synthesize(SynthesisRequest("a", "9"))]
    *chunks, summary = results
    heard = np.concatenate([chunk.samples for chunk in chunks if isinstance(chunk, AudioChunk)])
    assert heard.tolist() == [idx for idx in range(9) for _ in range(4)]
    assert isinstance(summary, SynthesisSummary)


async def test_several_requests_are_served_at_once(client: EngineThread):
    results = await asyncio.gather(*(speak(client, str(idx), "7") for idx in range(6)))
    assert all(len(samples) == 28 for samples in results)


async def test_a_listener_that_leaves_frees_its_slot(client: EngineThread, engine: ScriptedEngine):
    stream = client.synthesize(SynthesisRequest("a", "100000"))
    await anext(stream)
    await stream.aclose()
    await until(lambda: not engine.taken)
    assert client.status().num_waiting == 0


async def test_a_cancelled_task_frees_its_slot(client: EngineThread, engine: ScriptedEngine):
    task = asyncio.create_task(speak(client, "a", "100000"))
    await until(lambda: bool(engine.taken))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not engine.taken)


async def test_a_slow_listener_bounds_what_is_made_ahead(
    client: EngineThread, engine: ScriptedEngine
):
    stream = client.synthesize(SynthesisRequest("a", "100000"))
    await anext(stream)
    await until(lambda: client.status().num_running == 1 and engine.count.get(0, 0) >= 15)
    assert await speak(client, "b")  # the engine's thread has gone on meanwhile
    # one chunk taken and four made ahead: 1 + 2 + 4 + 8 + 8 frames
    assert engine.count[0] <= 1 + 2 + 4 + 8 + 8
    await stream.aclose()


async def test_one_request_too_many_is_refused_and_later_ones_are_served(engine: ScriptedEngine):
    client = client_of(lambda: engine, max_open=1)
    await client.start()
    await client.wait_ready()
    stream = client.synthesize(SynthesisRequest("a", "100000"))
    await anext(stream)
    with pytest.raises(QueueFullError, match="MAX_QUEUE"):
        await speak(client, "b")
    await stream.aclose()
    assert len(await speak(client, "c")) == 20
    await client.close()


async def test_a_failed_request_raises_and_the_engine_serves_on(client: EngineThread):
    with pytest.raises(GenerationError, match="no such text"):
        await speak(client, "a", "!")
    assert len(await speak(client, "b")) == 20


async def test_encode_and_prompt_length_reach_the_engine(client: EngineThread):
    codes = await client.encode_reference(np.zeros(12, dtype=np.float32))
    assert codes.shape == (2, 3)
    assert await client.prompt_length("abc", []) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("codec.pth is missing"), "codec.pth is missing"),
        (MemoryError("too big"), "MemoryError: too big"),
    ],
)
async def test_a_failed_start_is_told_with_its_reason(error: Exception, reason: str):
    def load() -> Engine:
        raise error

    client = client_of(load)
    await client.start()
    with pytest.raises(EngineUnavailableError, match=re.escape(reason)):
        await client.wait_ready()
    assert client.status().state is EngineState.FAILED
    assert client.info is None
    with pytest.raises(EngineUnavailableError, match=re.escape(reason)):
        await speak(client, "a")
    await client.close()


async def test_requests_before_the_engine_is_ready_are_refused(engine: ScriptedEngine):
    gate = threading.Event()

    def load() -> Engine:
        gate.wait()
        return engine

    client = client_of(load)
    await client.start()
    assert client.status().state is EngineState.STARTING
    with pytest.raises(EngineUnavailableError, match="starting"):
        await speak(client, "a")
    gate.set()
    await client.wait_ready()
    assert len(await speak(client, "a")) == 20
    await client.close()


async def test_closing_ends_open_requests_with_an_error(engine: ScriptedEngine):
    client = client_of(lambda: engine)
    await client.start()
    await client.wait_ready()
    stream = client.synthesize(SynthesisRequest("a", "100000"))
    await anext(stream)
    await client.close()
    with pytest.raises(EngineUnavailableError, match="shutting down"):
        _ = [result async for result in stream]
    assert client.status().state is EngineState.CLOSED
    assert engine.log[-1] == "close"
    assert engine.taken == {}


async def test_a_crash_of_the_loop_is_reported_and_nobody_waits_for_ever(
    client: EngineThread, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
):
    def crash(slot: int) -> None:
        raise MemoryError("the device is gone")

    monkeypatch.setattr(engine, "release", crash)
    with pytest.raises(EngineUnavailableError, match="the device is gone"):
        await speak(client, "a")
    assert client.status().state is EngineState.FAILED
    with pytest.raises(EngineUnavailableError, match="the device is gone"):
        await speak(client, "b")
