"""Nothing is left behind by many requests, and a book takes no more memory than a page."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backend.audio.formats import OUTPUT_FORMATS
from backend.service.cpu_pool import CpuPool
from backend.service.requests import SpeechRequest
from backend.service.synthesis import SynthesisService
from tests.conftest import MakeSettings
from tests.fakes import FAKE_INFO, FakeEngineClient

NUM_REQUESTS, AT_ONCE = 500, 50
BOOK_CHARS = 50_000


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    made = CpuPool(2)
    yield made
    made.close()


@pytest.fixture
async def service(
    make_settings: MakeSettings, engine: FakeEngineClient, model_dir: Path, pool: CpuPool
) -> AsyncIterator[SynthesisService]:
    settings = make_settings(max_text_chars=2 * BOOK_CHARS, cache_limit=1)
    made = SynthesisService(engine, settings, model_dir, pool)
    await made.open()
    yield made
    await made.close()


def asked(**changes: object) -> SpeechRequest:
    values = {"request_id": "r1", "text": "Hello there.", "seed": 5, "format": "pcm", **changes}
    return SpeechRequest(**values)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "runs_codec"),
    [
        ({"format": "mp3"}, True),
        ({"format": "flac", "stream": False}, True),
        ({"speed": 1.5}, True),
        ({"volume_db": -6.0}, True),
        ({"sample_rate": 8000}, True),
        ({"normalize": True, "trim_silence": True}, True),
        ({"seed": 6}, False),
        ({"text": "Hello again."}, False),
    ],
)
async def test_another_file_of_the_same_speech_runs_the_codec_alone(
    service: SynthesisService,
    engine: FakeEngineClient,
    changes: dict[str, object],
    runs_codec: bool,
):
    for request in (asked(), asked(**changes)):
        speech = await service.speak(request)
        async for _ in speech.chunks():
            pass
    first, second = engine.requests
    assert first.codes is None
    assert (second.codes is not None) is runs_codec
    assert (second.text == "") is runs_codec


async def test_of_500_requests_with_every_third_aborted_nothing_stays(
    service: SynthesisService, engine: FakeEngineClient
):
    formats = list(OUTPUT_FORMATS)

    def request_of(number: int) -> SpeechRequest:
        return asked(
            request_id=f"r{number}",
            text=f"Sentence {number}. And another one.",
            format=formats[number % len(formats)],
            stream=number % 2 == 0,
        )

    async def run(number: int) -> None:
        how = number % 10
        speaking = asyncio.create_task(service.speak(request_of(number)))
        if how == 0:  # leaves before there is sound
            await asyncio.sleep(0)
            if not speaking.cancel():  # what is in the cache sounds at once
                await speaking.result().aclose()
                return
            with pytest.raises(asyncio.CancelledError):
                await speaking
            return
        speech = await speaking
        if how == 1:  # leaves with the first sound
            await speech.aclose()
            return
        async for _ in speech.chunks():
            if how == 2:  # leaves in the middle
                break
        await speech.aclose()

    await run(3)  # threads and caches are there after one
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    for start in range(0, NUM_REQUESTS, AT_ONCE):
        await asyncio.gather(*(run(number) for number in range(start, start + AT_ONCE)))
    await asyncio.wait_for(engine.idle.wait(), 30)
    status = engine.status()
    assert (status.num_running, status.num_waiting) == (0, 0)
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() <= threads + 1  # the pool has two, and may have had use for one
    counted = service.metrics.snapshot()["requests"]
    assert counted["in_progress"] == 0
    assert counted["total"] == NUM_REQUESTS + 1
    assert counted["by_status"]["cancelled"] == 3 * NUM_REQUESTS // 10
    assert counted["by_status"]["ok"] == 7 * NUM_REQUESTS // 10 + 1


async def test_a_book_streams_with_flat_memory(service: SynthesisService, engine: FakeEngineClient):
    engine.frames_per_chunk = 64
    sentences = (f"This is sentence number {number} of the book." for number in range(10_000))
    text = ""
    for sentence in sentences:
        if len(text) + len(sentence) > BOOK_CHARS:
            break
        text += sentence + " "
    speech = await service.speak(asked(text=text))
    num_bytes, limit = 0, 0
    tracemalloc.start()
    try:
        async for piece in speech.chunks():
            num_bytes += len(piece)
            engine.requests.clear()  # the fake's own notes
            if limit == 0 and num_bytes > 2_000_000:  # the cache of 1 MiB is filling up
                limit = tracemalloc.get_traced_memory()[0] + (2 << 20)
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_bytes > 50_000_000
    assert num_bytes == speech.ledger.num_frames * FAKE_INFO.frame_length * 2
    assert 0 < peak < limit
