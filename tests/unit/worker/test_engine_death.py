"""The engine's process dies, hangs or cannot load: what becomes of it and of the requests."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import (
    EngineDiedError,
    EngineUnavailableError,
    QueueFullError,
    ServiceClosedError,
)
from backend.core.types import AudioChunk, EngineState, SynthesisRequest
from backend.worker.client import TransportClient
from backend.worker.restart_policy import RestartPolicy
from tests.unit.worker.conftest import AT_ONCE, Clock, client_of, ready, speak, until
from tests.unit.worker.sources import ScriptedSource

ROOT = Path(__file__).resolve().parents[3]
NEVER_AGAIN = RestartPolicy(first_delay_s=1e6)
"""Restarts after the test is over."""
PATIENT = 1000.0
"""More than every limit of ``AT_ONCE`` and of ``RestartPolicy``."""


def kill(client: TransportClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


async def until_restarted(client: TransportClient, count: int = 1) -> None:
    await until(lambda: client.status().restarts == count)
    await until(lambda: client.status().state is EngineState.READY)


async def test_an_engine_killed_while_idle_comes_back(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path))) as client:
        kill(client)
        await until_restarted(client)
        assert len(await speak(client, "a")) == 20
        status = client.status()
        assert (status.restarts, status.streams_broken) == (1, 0)
        assert status.last_failure is not None
        assert status.last_failure.startswith("the engine's process ")


async def test_it_comes_back_twice_in_a_row(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path))) as client:
        for count in (1, 2):
            kill(client)
            await until_restarted(client, count)
        assert len(await speak(client, "a")) == 20


async def test_what_sounds_is_cut_and_what_waits_is_served(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path, num_slots=1))) as client:
        sounding = client.synthesize(SynthesisRequest("a", "100000"))
        await anext(sounding)
        waiting = [asyncio.create_task(speak(client, name)) for name in "bcd"]
        await until(lambda: client.status().num_waiting == 3)
        kill(client)
        with pytest.raises(EngineDiedError, match="the sound ends here"):
            _ = [result async for result in sounding]
        assert [len(samples) for samples in await asyncio.gather(*waiting)] == [20, 20, 20]
        assert client.status().streams_broken == 1


async def test_what_had_begun_without_a_sound_is_begun_once_more(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path))) as client:
        assert len(await speak(client, "a", "die once")) == 20
        assert client.status().restarts == 1
        assert client.status().last_failure == "the engine's process ended with code 9"


async def test_what_kills_two_engines_gets_no_third(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path, num_slots=1))) as client:
        deadly = asyncio.create_task(speak(client, "a", "die"))
        await until(lambda: client.status().num_running + client.status().num_waiting == 1)
        innocent = asyncio.create_task(speak(client, "b"))
        with pytest.raises(EngineDiedError, match="again, before there was any sound"):
            await deadly
        assert len(await innocent) == 20
        assert (client.status().restarts, client.status().streams_broken) == (2, 0)


async def test_a_lost_device_ends_the_process_and_the_request_is_begun_once_more(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path))) as client:
        assert len(await speak(client, "a", "fault once")) == 20
        assert client.status().restarts == 1
        assert "the driver gave up" in (client.status().last_failure or "")


async def test_requests_and_calls_wait_for_the_next_engine_as_many_as_the_queue_holds(
    tmp_path: Path,
):
    async with ready(client_of(ScriptedSource(tmp_path), max_open=1)) as client:
        kill(client)
        await until(lambda: client.status().state is EngineState.RESTARTING)
        assert "started again" in client.status().detail or client.status().restarts == 0
        stream = client.synthesize(SynthesisRequest("a", "100000"))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await speak(client, "b")
        assert await client.prompt_length("abc", []) == 3
        assert isinstance(await first, AudioChunk)
        await stream.aclose()


async def test_a_request_that_leaves_meanwhile_is_forgotten(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path), policy=NEVER_AGAIN)) as client:
        kill(client)
        await until(lambda: client.status().restarts == 1)
        task = asyncio.create_task(speak(client, "a"))
        await until(lambda: client.status().num_waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.status().num_waiting == 0


async def test_closing_does_not_wait_for_the_restart(tmp_path: Path):
    client = client_of(ScriptedSource(tmp_path), policy=NEVER_AGAIN)
    async with ready(client):
        kill(client)
        await until(lambda: client.status().restarts == 1)
        task = asyncio.create_task(speak(client, "a"))
        call = asyncio.create_task(client.encode_reference(np.zeros(4, dtype=np.float32)))
        await until(lambda: client.status().num_waiting == 1)
        await asyncio.sleep(0)
    for waiting in (task, call):
        with pytest.raises(ServiceClosedError):
            await waiting


async def test_an_engine_that_hangs_with_work_is_killed_and_the_work_done(tmp_path: Path):
    clock = Clock()
    async with ready(client_of(ScriptedSource(tmp_path), clock=clock)) as client:
        task = asyncio.create_task(speak(client, "a", "hang once"))
        await until((tmp_path / "hangs").exists)
        while client.status().restarts == 0:
            clock.now_s += PATIENT
            await asyncio.sleep(AT_ONCE.tick_s)
        assert len(await task) == 20
        assert "no sign of life" in (client.status().last_failure or "")


async def test_an_idle_or_slowly_heard_engine_is_left_alone(tmp_path: Path):
    clock = Clock()
    async with ready(client_of(ScriptedSource(tmp_path), clock=clock)) as client:
        clock.now_s += PATIENT  # idle for long
        stream = client.synthesize(SynthesisRequest("a", "100000"))
        await anext(stream)  # from now on the listener takes nothing: the engine pauses
        life = client._supervisor._life
        assert life is not None
        for _ in range(3):
            await until(lambda: life.pinged_at is not None)
            await until(lambda: life.pinged_at is None)  # answered
            clock.now_s += PATIENT
        assert len(await speak(client, "b")) == 20
        assert client.status().restarts == 0
        await stream.aclose()


async def test_an_engine_that_hangs_while_it_loads_is_killed(tmp_path: Path):
    clock = Clock()
    client = client_of(ScriptedSource(tmp_path, ("hang", "ok")), clock=clock)
    await client.start()
    await until((tmp_path / "life-0").exists)
    while client.status().restarts == 0:
        clock.now_s += 2 * PATIENT
        await asyncio.sleep(AT_ONCE.tick_s)
    assert client.status().state is EngineState.RESTARTING
    await client.wait_ready()
    assert "not ready after" in (client.status().last_failure or "")
    await client.close()


@pytest.mark.parametrize("first", ["die", "error"])
async def test_a_first_load_that_fails_by_chance_is_tried_again(tmp_path: Path, first: str):
    async with ready(client_of(ScriptedSource(tmp_path, (first, "ok")))) as client:
        assert client.status().restarts == 1
        assert len(await speak(client, "a")) == 20


@pytest.mark.parametrize(("plan", "why"), [("die", "code 9"), ("error", "MemoryError: too big")])
async def test_a_first_load_that_always_fails_is_given_up(tmp_path: Path, plan: str, why: str):
    source = ScriptedSource(tmp_path, (plan,))
    client = client_of(source)
    await client.start()
    with pytest.raises(EngineUnavailableError, match=why):
        await client.wait_ready()
    assert client.status().state is EngineState.FAILED
    assert source.num_lives == AT_ONCE.max_first_starts
    await client.close()


async def test_a_restart_that_finds_bad_files_is_final_and_ends_what_waits(tmp_path: Path):
    async with ready(client_of(ScriptedSource(tmp_path, ("ok", "bad")))) as client:
        kill(client)
        await until(lambda: client.status().state is not EngineState.READY)
        with pytest.raises(EngineUnavailableError, match=r"codec\.pth is missing"):
            await speak(client, "a")
        await until(lambda: client.status().state is EngineState.FAILED)


async def test_closing_kills_an_engine_that_does_not_stop(tmp_path: Path):
    client = client_of(ScriptedSource(tmp_path), stop_timeout_s=0.05)
    async with ready(client):
        task = asyncio.create_task(speak(client, "a", "hang"))
        await until((tmp_path / "hangs").exists)
    assert client.pid is None
    with pytest.raises(ServiceClosedError):
        await task


async def test_closing_while_it_loads_does_not_wait_for_the_load(tmp_path: Path):
    client = client_of(ScriptedSource(tmp_path, ("hang",)))
    await client.start()
    await until((tmp_path / "life-0").exists)
    await client.close()
    assert client.pid is None
    with pytest.raises(ServiceClosedError):
        await client.wait_ready()


PARENT = """
import asyncio, sys
from pathlib import Path
from tests.unit.worker.conftest import client_of, speak
from tests.unit.worker.sources import ScriptedSource

async def main():
    client = client_of(ScriptedSource(Path(sys.argv[1])))
    await client.start()
    await client.wait_ready()
    print("ready", flush=True)
    await speak(client, "a", sys.argv[2])
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("text", ["5", "hang"], ids=["idle", "busy"])
def test_the_engine_dies_with_a_parent_that_is_killed(tmp_path: Path, text: str):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), text],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline().strip() == b"ready"
        parent.kill()
        # the engine's process has the same standard error: it ends when both are gone
        parent.stderr.read()
