from __future__ import annotations

import asyncio
import threading

import pytest

from backend.service.cpu_pool import CpuPool


async def test_calls_run_in_another_thread_and_give_their_result():
    pool = CpuPool(1)
    assert await pool.run(threading.get_ident) != threading.get_ident()
    assert await pool.run(max, 1, 2) == 2
    pool.close()


async def test_errors_come_back():
    pool = CpuPool(1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    pool.close()


async def test_cancelled_caller_waits_until_its_call_has_ended():
    pool = CpuPool(1)
    has_begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        has_begun.set()
        may_end.wait()
        ended.append(True)

    caller = asyncio.create_task(pool.run(work))
    await asyncio.to_thread(has_begun.wait)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True]
    pool.close()


async def test_call_that_has_not_begun_is_cancelled_with_its_caller():
    pool = CpuPool(1)
    may_end = threading.Event()
    calls: list[str] = []
    blocker = asyncio.create_task(pool.run(may_end.wait))
    waiting = asyncio.create_task(pool.run(calls.append, "second"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    await blocker
    pool.close()
    assert calls == []
