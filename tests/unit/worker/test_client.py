"""The engine behind its client, in a thread and in a process: the same whichever it is."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import (
    EngineUnavailableError,
    GenerationError,
    QueueFullError,
    ServiceClosedError,
)
from backend.core.types import AudioChunk, EngineState, SynthesisRequest, SynthesisSummary
from backend.worker.client import TransportClient
from tests.unit.serving.scripted_engine import INFO, ScriptedEngine
from tests.unit.worker.conftest import client_of, ready, speak, until
from tests.unit.worker.sources import HeldSource, ScriptedSource


@pytest.fixture
async def client(tmp_path: Path, kind: str) -> AsyncIterator[TransportClient]:
    async with ready(client_of(ScriptedSource(tmp_path), kind)) as client:
        yield client


@pytest.fixture
async def narrow(tmp_path: Path, kind: str) -> AsyncIterator[TransportClient]:
    """A client whose engine has one slot, so a slot that is not given back blocks the next."""
    source = ScriptedSource(tmp_path, num_slots=1)
    async with ready(client_of(source, kind, max_open=2)) as client:
        yield client


async def test_a_ready_client_knows_its_engine(client: TransportClient, kind: str):
    assert client.info == INFO
    status = client.status()
    assert (status.state, status.max_running) == (EngineState.READY, 2)
    assert (status.restarts, status.last_failure) == (0, None)
    assert (client.pid is None) == (kind == "thread")


async def test_audio_comes_in_order_and_then_one_summary(client: TransportClient):
    results = [result async for result in client.synthesize(SynthesisRequest("a", "9"))]
    *chunks, summary = results
    heard = np.concatenate([chunk.samples for chunk in chunks if isinstance(chunk, AudioChunk)])
    assert heard.tolist() == [idx for idx in range(9) for _ in range(4)]
    assert isinstance(summary, SynthesisSummary)
    assert client.status().num_running == 0


async def test_known_codes_are_decoded(client: TransportClient):
    codes = np.tile(np.arange(7, dtype=np.int32), (2, 1))
    request = SynthesisRequest("a", "", codes=codes)
    chunks = [r async for r in client.synthesize(request) if isinstance(r, AudioChunk)]
    assert np.array_equal(np.concatenate([chunk.codes for chunk in chunks], axis=1), codes)


async def test_several_requests_are_served_at_once_even_of_the_same_name(client: TransportClient):
    results = await asyncio.gather(*(speak(client, "same", "7") for _ in range(6)))
    assert all(len(samples) == 28 for samples in results)


async def test_a_listener_that_leaves_frees_its_slot(narrow: TransportClient):
    stream = narrow.synthesize(SynthesisRequest("a", "100000"))
    await anext(stream)
    assert narrow.status().num_running == 1
    await stream.aclose()
    assert (narrow.status().num_running, narrow.status().num_waiting) == (0, 0)
    assert len(await speak(narrow, "b")) == 20


async def test_cancelled_tasks_leave_nothing_running_or_waiting(narrow: TransportClient):
    running = asyncio.create_task(speak(narrow, "a", "100000"))
    await until(lambda: narrow.status().num_running == 1)
    waiting = asyncio.create_task(speak(narrow, "b", "100000"))
    await until(lambda: narrow.status().num_waiting == 1)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(await speak(narrow, "c")) == 20


async def test_one_request_too_many_is_refused_and_later_ones_are_served(narrow: TransportClient):
    streams = [narrow.synthesize(SynthesisRequest(name, "100000")) for name in "ab"]
    await anext(streams[0])
    queued = asyncio.ensure_future(anext(streams[1]))
    await until(lambda: narrow.status().num_waiting == 1)
    with pytest.raises(QueueFullError, match="MAX_QUEUE"):
        await speak(narrow, "c")
    await streams[0].aclose()
    await queued
    await streams[1].aclose()
    assert len(await speak(narrow, "d")) == 20


async def test_a_failed_request_raises_and_the_engine_serves_on(client: TransportClient):
    with pytest.raises(GenerationError, match="no such text"):
        await speak(client, "a", "!")
    assert len(await speak(client, "b")) == 20
    assert client.status().restarts == 0


async def test_encode_and_prompt_length_reach_the_engine(client: TransportClient):
    codes = await client.encode_reference(np.zeros(12, dtype=np.float32))
    assert codes.shape == (2, 3)
    assert await client.prompt_length("abc", []) == 3


async def test_a_call_that_fails_raises_and_the_engine_serves_on(client: TransportClient):
    with pytest.raises(GenerationError, match="ZeroDivisionError: nothing to encode"):
        await client.encode_reference(np.zeros(0, dtype=np.float32))
    assert await client.prompt_length("abc", []) == 3


async def test_a_cancelled_call_is_forgotten(client: TransportClient):
    call = asyncio.create_task(client.prompt_length("abc", []))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await client.prompt_length("abcd", []) == 4


async def test_a_bad_checkpoint_is_told_with_its_reason_and_not_tried_again(
    tmp_path: Path, kind: str
):
    source = ScriptedSource(tmp_path, ("bad",))
    client = client_of(source, kind)
    await client.start()
    with pytest.raises(EngineUnavailableError, match=re.escape("codec.pth is missing")):
        await client.wait_ready()
    assert client.status().state is EngineState.FAILED
    assert client.info is None
    with pytest.raises(EngineUnavailableError, match=re.escape("codec.pth is missing")):
        await speak(client, "a")
    assert source.num_lives == 1
    await client.close()


async def test_closing_ends_open_requests_with_an_error(tmp_path: Path, kind: str):
    client = client_of(ScriptedSource(tmp_path), kind)
    async with ready(client):
        stream = client.synthesize(SynthesisRequest("a", "100000"))
        await anext(stream)
    with pytest.raises(ServiceClosedError, match="shutting down"):
        _ = [result async for result in stream]
    assert client.status().state is EngineState.CLOSED
    assert client.pid is None
    with pytest.raises(EngineUnavailableError, match="closed"):
        await speak(client, "b")
    await client.close()  # once more changes nothing


async def test_a_slow_listener_bounds_what_is_made_ahead():
    engine = ScriptedEngine()
    async with ready(client_of(HeldSource(engine), "thread")) as client:
        stream = client.synthesize(SynthesisRequest("a", "100000"))
        await anext(stream)
        await until(lambda: engine.count.get(0, 0) >= 15)
        assert await speak(client, "b")  # the engine's thread has gone on meanwhile
        # one chunk taken and four made ahead: 1 + 2 + 4 + 8 + 8 frames
        assert engine.count[0] <= 1 + 2 + 4 + 8 + 8
        await stream.aclose()
    assert engine.log[-1] == "close"


@dataclass
class UnpreparedEngine(ScriptedEngine):
    """Has so many pieces of preparation left for quiet moments."""

    pieces: int = 3

    def prepare_one(self) -> bool:
        self.log.append(f"prepare with {len(self.taken)} running")
        self.pieces -= 1
        return self.pieces > 0


async def test_what_was_put_off_is_prepared_while_nobody_waits():
    engine = UnpreparedEngine()
    async with ready(client_of(HeldSource(engine), "thread")) as client:
        await until(lambda: engine.pieces == 0)
        assert len(await speak(client, "a")) == 20
        await until(lambda: engine.pieces < 0)  # asked again after each spell of work
    prepared = [entry for entry in engine.log if entry.startswith("prepare")]
    assert set(prepared) == {"prepare with 0 running"}


async def test_requests_before_the_first_engine_is_ready_are_refused():
    gate = threading.Event()
    client = client_of(HeldSource(ScriptedEngine(), gate), "thread")
    await client.start()
    assert client.status().state is EngineState.STARTING
    with pytest.raises(EngineUnavailableError, match="starting"):
        await speak(client, "a")
    gate.set()
    await client.wait_ready()
    assert len(await speak(client, "a")) == 20
    await client.close()


async def test_a_crash_of_a_thread_is_final_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
):
    def crash(slot: int) -> None:
        raise MemoryError("the device is gone")

    engine = ScriptedEngine()
    monkeypatch.setattr(engine, "release", crash)
    async with ready(client_of(HeldSource(engine), "thread")) as client:
        with pytest.raises(EngineUnavailableError, match="the device is gone"):
            await speak(client, "a")
        await until(lambda: client.status().state is EngineState.FAILED)
        with pytest.raises(EngineUnavailableError, match="the device is gone"):
            await speak(client, "b")
