"""Whole files outlive an engine; streams end with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from backend.core.errors import EngineDiedError, GenerationError
from backend.core.types import AudioChunk, SynthesisRequest, SynthesisSummary
from backend.service.cpu_pool import CpuPool
from backend.service.requests import SpeechRequest
from backend.service.second_try import whole_or_again
from backend.service.synthesis import SynthesisService
from tests.conftest import MakeSettings
from tests.fakes import FakeEngineClient


class MortalEngine(FakeEngineClient):
    """Dies after the first chunk of so many of the next requests."""

    deaths = 0

    async def synthesize(
        self, request: SynthesisRequest
    ) -> AsyncGenerator[AudioChunk | SynthesisSummary, None]:
        async with aclosing(super().synthesize(request)) as results:
            async for result in results:
                yield result
                if self.deaths > 0:
                    self.deaths -= 1
                    raise EngineDiedError("the engine's process was ended by SIGKILL")


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    made = CpuPool(2)
    yield made
    made.close()


@pytest.fixture
def mortal() -> MortalEngine:
    return MortalEngine()


@pytest.fixture
async def service(
    make_settings: MakeSettings, mortal: MortalEngine, model_dir: Path, pool: CpuPool
) -> AsyncIterator[SynthesisService]:
    made = SynthesisService(mortal, make_settings(cache_limit=0), model_dir, pool)
    await made.open()
    yield made
    await made.close()


def asked(*, stream: bool, **changes: object) -> SpeechRequest:
    values = {"request_id": "r1", "text": "Hello there.", "seed": 5, "format": "pcm", **changes}
    return SpeechRequest(**values, stream=stream)  # pyright: ignore[reportArgumentType]


async def heard(service: SynthesisService, request: SpeechRequest) -> bytes:
    speech = await service.speak(request)
    return b"".join([piece async for piece in speech.chunks()])


async def test_a_file_is_made_once_more_and_is_the_same(
    service: SynthesisService, mortal: MortalEngine
):
    undisturbed = await heard(service, asked(stream=False))
    mortal.deaths = 1
    assert await heard(service, asked(stream=False)) == undisturbed
    first, second = mortal.requests[-2:]
    assert (first.text, first.sampling) == (second.text, second.sampling)


async def test_what_kills_two_engines_is_given_up(service: SynthesisService, mortal: MortalEngine):
    mortal.deaths = 2
    with pytest.raises(EngineDiedError):
        await heard(service, asked(stream=False))
    assert len(mortal.requests) == 2
    assert mortal.idle.is_set()


async def test_a_stream_that_sounds_ends_with_its_engine(
    service: SynthesisService, mortal: MortalEngine
):
    mortal.deaths = 1
    with pytest.raises(EngineDiedError):
        await heard(service, asked(stream=True))
    assert len(mortal.requests) == 1


async def test_other_failures_are_not_tried_again():
    calls: list[int] = []

    async def fails() -> AsyncGenerator[int, None]:
        calls.append(1)
        yield 1
        raise GenerationError("it cannot be said")

    with pytest.raises(GenerationError, match="cannot be said"):
        _ = [result async for result in whole_or_again(fails)]
    assert len(calls) == 1
