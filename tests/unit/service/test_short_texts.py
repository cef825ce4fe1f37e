"""A model may end at once without a sound; the narrator does not give up at the first try."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.errors import GenerationError
from backend.core.types import FinishReason, SamplingParams, SynthesisRequest
from backend.service.cache import SemanticCache
from backend.service.ledger import SpeechLedger
from backend.service.narration import Narration, Narrator
from tests.fakes import FAKE_INFO, FakeEngineClient


class ShyEngine(FakeEngineClient):
    """Says nothing unless the text ends with a stop, and never at the first ``num_silent``."""

    num_silent = 0

    def _codes_of(self, request: SynthesisRequest) -> tuple[NDArray[np.int32], FinishReason]:
        if request.text.endswith(".") and len(self.requests) > self.num_silent:
            return super()._codes_of(request)
        return np.zeros((FAKE_INFO.num_codebooks, 0), np.int32), FinishReason.STOP


@pytest.fixture
async def shy() -> ShyEngine:
    engine = ShyEngine()
    await engine.wait_ready()
    return engine


async def speak(engine: FakeEngineClient, *segments: str) -> int:
    narrator = Narrator(engine, SemanticCache(1 << 20))
    narration = Narration("id", segments, (), SamplingParams(seed=3), stream=True)
    sound = narrator.speak(narration, FAKE_INFO, SpeechLedger("id"))
    return sum([samples.size async for samples in sound])


async def test_a_word_without_a_stop_is_said_with_one(shy: ShyEngine):
    assert await speak(shy, "Hi") > 0
    assert [request.text for request in shy.requests] == ["Hi", "Hi."]


async def test_another_try_has_another_noise(shy: ShyEngine):
    shy.num_silent = 2
    assert await speak(shy, "Hi.") > 0
    seeds = [request.sampling.seed for request in shy.requests]
    assert len(set(seeds)) == len(seeds) == 3
    assert seeds[0] == 3


async def test_tries_end(shy: ShyEngine):
    shy.num_silent = 1000
    with pytest.raises(GenerationError, match="without a sound"):
        await speak(shy, "Hi.")
    assert len(shy.requests) == 3


async def test_what_is_said_at_once_is_said_once():
    engine = FakeEngineClient()
    await engine.wait_ready()
    await speak(engine, "One.", "Two")
    assert [request.text for request in engine.requests] == ["One.", "Two"]
