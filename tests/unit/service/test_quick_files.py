"""Plain samples become bytes where they are; everything else goes to a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.audio.pcm import to_s16le_bytes
from backend.service.cpu_pool import CpuPool
from backend.service.files import MOST_AT_ONCE, plan_file, streamed_file
from backend.service.ledger import SpeechLedger
from backend.service.requests import SpeechRequest

RATE_HZ = 16_000
RNG = np.random.default_rng(3)


class CountingPool(CpuPool):
    """Notes how often it is asked."""

    num_calls = 0

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        return await super().run(function, *args, **kwargs)


async def file_of_parts(parts: list[NDArray[np.float32]], **changes: Any) -> tuple[bytes, int]:
    """Give the bytes of a streamed file and how often a thread was asked."""

    async def sound() -> AsyncGenerator[NDArray[np.float32], None]:
        for part in parts:
            yield part

    request = SpeechRequest(request_id="r1", text="Hello.", seed=1, **changes)
    pool = CountingPool(1)
    try:
        pieces = streamed_file(sound(), plan_file(request, RATE_HZ), pool, SpeechLedger("r1"))
        return b"".join([piece async for piece in pieces]), pool.num_calls
    finally:
        pool.close()


def parts_of(*sizes: int) -> list[NDArray[np.float32]]:
    return [RNG.normal(0, 0.2, size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("name", ["pcm", "wav"])
async def test_small_plain_chunks_need_no_thread(name: str):
    parts = parts_of(320, 640, MOST_AT_ONCE)
    data, num_calls = await file_of_parts(parts, format=name)
    assert num_calls == 0
    assert data.endswith(to_s16le_bytes(np.concatenate(parts)))


async def test_a_large_chunk_goes_to_a_thread_and_gives_the_same_bytes():
    parts = parts_of(320, MOST_AT_ONCE + 1, 320)
    data, num_calls = await file_of_parts(parts, format="pcm")
    assert num_calls == 1
    assert data == to_s16le_bytes(np.concatenate(parts))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "mp3"}, {"format": "flac"}, {"format": "pcm", "speed": 1.5},
        {"format": "pcm", "volume_db": 3.0}, {"format": "wav", "trim_silence": True},
        {"format": "pcm", "sample_rate": 8000},
    ],
)  # fmt: skip
async def test_whatever_computes_goes_to_a_thread(changes: dict[str, Any]):
    _, num_calls = await file_of_parts(parts_of(3200, 3200), **changes)
    assert num_calls == 4  # the file, its chunks, its end
