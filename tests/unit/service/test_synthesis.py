from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.audio.pcm import to_s16le_bytes
from backend.core.errors import (
    CheckpointError,
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    InvalidTextError,
    QueueFullError,
    UnsupportedFormatError,
)
from backend.core.types import EngineState, FinishReason, SamplingParams
from backend.service.cpu_pool import CpuPool
from backend.service.requests import (
    SamplingOverrides,
    Speech,
    SpeechRequest,
    UploadedReference,
)
from backend.service.synthesis import SynthesisService
from backend.telemetry.recent import RequestStatus
from tests.conftest import MakeSettings, file_of, tone, write_voice
from tests.fakes import FAKE_INFO, FakeEngineClient, fake_codes, fake_samples

LONG_TEXT = " ".join(f"This is sentence number {number}." for number in range(30))


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    made = CpuPool(2)
    yield made
    made.close()


@pytest.fixture
async def service(
    make_settings: MakeSettings, engine: FakeEngineClient, model_dir: Path, pool: CpuPool
) -> AsyncIterator[SynthesisService]:
    made = SynthesisService(engine, make_settings(), model_dir, pool)
    await made.open()
    yield made
    await made.close()


def asked(**changes: object) -> SpeechRequest:
    values = {"request_id": "r1", "text": "Hello there.", "seed": 5, "format": "pcm", **changes}
    return SpeechRequest(**values)  # pyright: ignore[reportArgumentType]


async def all_bytes(speech: Speech) -> bytes:
    return b"".join([chunk async for chunk in speech.chunks()])


async def test_speech_is_what_the_engine_made(service: SynthesisService):
    speech = await service.speak(asked(voice="basso"))
    turn = service.voices().find("basso").turn
    codes = fake_codes("Hello there.", (turn,), replace(FAKE_INFO.sampling, seed=5))
    assert await all_bytes(speech) == to_s16le_bytes(fake_samples(codes))
    assert speech.ledger.num_frames == codes.shape[1]
    assert speech.ledger.finish_reason is FinishReason.STOP


async def test_sampling_overrides_reach_the_engine(
    service: SynthesisService, engine: FakeEngineClient
):
    overrides = SamplingOverrides(
        temperature=0.0, top_p=0.5, top_k=7, repetition_penalty=1.5, max_new_tokens=9
    )
    speech = await service.speak(asked(sampling=overrides, stream=False))
    await speech.aclose()
    assert engine.requests[0].sampling == SamplingParams(
        temperature=0.0,
        top_p=0.5,
        top_k=7,
        repetition_penalty=1.5,
        repetition_window=FAKE_INFO.sampling.repetition_window,
        max_new_tokens=9,
        seed=5,
    )
    assert engine.requests[0].stream is False
    assert speech.ledger.finish_reason is FinishReason.LENGTH


async def test_a_demanded_length_reaches_the_engine_and_must_be_allowed(
    service: SynthesisService, engine: FakeEngineClient
):
    overrides = SamplingOverrides(min_new_tokens=70, max_new_tokens=70)
    speech = await service.speak(asked(sampling=overrides, stream=False))
    await speech.aclose()
    assert engine.requests[0].sampling.min_new_tokens == 70
    assert speech.ledger.num_frames == 70
    with pytest.raises(InvalidInputError, match="min_new_tokens=71 is more than max_new_tokens=70"):
        await service.speak(asked(sampling=replace(overrides, min_new_tokens=71)))


async def test_without_a_seed_one_is_drawn_and_told(
    service: SynthesisService, engine: FakeEngineClient
):
    seeds = set()
    for _ in range(3):
        speech = await service.speak(asked(seed=None))
        await all_bytes(speech)
        assert engine.requests[-1].sampling.seed == speech.ledger.seed
        seeds.add(speech.ledger.seed)
    assert len(seeds) == 3


async def test_same_seed_gives_the_same_bytes_and_another_seed_others(service: SynthesisService):
    first = await all_bytes(await service.speak(asked()))
    await service.clear_caches()
    assert await all_bytes(await service.speak(asked())) == first
    assert await all_bytes(await service.speak(asked(seed=6))) != first


async def test_segments_continue_each_other_with_seeds_of_their_own(
    service: SynthesisService, engine: FakeEngineClient
):
    speech = await service.speak(asked(text=LONG_TEXT))
    await all_bytes(speech)
    requests = engine.requests
    voice = service.voices().default
    assert voice is not None
    assert len(requests) == speech.ledger.num_segments > 2
    assert " ".join(request.text for request in requests) == LONG_TEXT
    assert len({request.sampling.seed for request in requests}) == len(requests)
    assert len({request.request_id for request in requests}) == len(requests)
    assert requests[0].turns == (voice.turn,)
    for before, request in itertools.pairwise(requests):
        assert request.turns[0] is voice.turn
        (continued,) = request.turns[1:]
        assert continued.text == before.text
        np.testing.assert_array_equal(
            continued.codes, fake_codes(before.text, before.turns, before.sampling)
        )


async def test_without_references_the_first_segment_keeps_the_voice(
    make_settings: MakeSettings, engine: FakeEngineClient, tmp_path: Path, pool: CpuPool
):
    service = SynthesisService(engine, make_settings(), tmp_path, pool)
    await service.open()
    speech = await service.speak(asked(text=LONG_TEXT))
    await all_bytes(speech)
    texts = [request.text for request in engine.requests]
    assert speech.ledger.voice is None
    assert [[turn.text for turn in request.turns] for request in engine.requests[:4]] == [
        [],
        texts[:1],
        texts[:2],
        [texts[0], texts[2]],
    ]


async def test_continuation_that_does_not_fit_is_left_out(
    make_settings: MakeSettings, model_dir: Path, pool: CpuPool
):
    engine = FakeEngineClient(replace(FAKE_INFO, max_prompt_positions=400))
    service = SynthesisService(engine, make_settings(), model_dir, pool)
    await service.open()
    await all_bytes(await service.speak(asked(text=LONG_TEXT)))
    assert [len(request.turns) for request in engine.requests] == [1] * len(engine.requests)


async def test_known_speech_costs_only_the_codec(
    service: SynthesisService, engine: FakeEngineClient
):
    cold = await service.speak(asked(text=LONG_TEXT))
    cold_bytes = await all_bytes(cold)
    num_cold = len(engine.requests)
    warm = await service.speak(asked(text=LONG_TEXT))
    assert await all_bytes(warm) == cold_bytes
    again = engine.requests[num_cold:]
    assert len(again) == num_cold
    assert all(request.codes is not None and request.text == "" for request in again)
    assert (cold.ledger.cache_hits, warm.ledger.cache_hits) == (
        {"semantic": False},
        {"semantic": True},
    )
    assert warm.ledger.finish_reason is FinishReason.STOP
    assert service.cache_counters()["semantic"].hits == num_cold


async def test_broken_off_speech_is_not_cached(service: SynthesisService, engine: FakeEngineClient):
    speech = await service.speak(asked())
    await speech.aclose()
    assert service.cache_counters()["semantic"].entries == 0
    assert engine.idle.is_set()
    assert service.recent.find("r1").status is RequestStatus.CANCELLED


async def test_recording_is_encoded_once_and_continued(
    service: SynthesisService, engine: FakeEngineClient
):
    reference = UploadedReference(file_of(tone(2.0)), "This is my voice.")
    first = await service.speak(asked(reference=reference))
    await all_bytes(first)
    second = await service.speak(asked(reference=reference, text="Other words."))
    await all_bytes(second)
    assert len(engine.encoded) == 1
    assert engine.encoded[0].shape == (32_000,)
    assert [turn.text for turn in engine.requests[0].turns] == ["This is my voice."]
    assert first.ledger.voice == "upload"
    assert (first.ledger.cache_hits["voice_codes"], second.ledger.cache_hits["voice_codes"]) == (
        False,
        True,
    )


async def test_recording_without_transcript_is_used_with_a_warning(
    service: SynthesisService, engine: FakeEngineClient
):
    speech = await service.speak(asked(reference=UploadedReference(file_of(tone(2.0)))))
    await all_bytes(speech)
    assert engine.requests[0].turns[0].text == ""
    assert "no prompt_text" in speech.ledger.warnings[0]


async def test_markers_a_model_does_not_know_are_left_out(
    make_settings: MakeSettings, model_dir: Path, pool: CpuPool
):
    engine = FakeEngineClient(replace(FAKE_INFO, model="pocket"))
    service = SynthesisService(engine, make_settings(), model_dir, pool)
    await service.open()
    speech = await service.speak(asked(text="(angry) Go away! (laughing) Ha (sic)."))
    await all_bytes(speech)
    assert engine.requests[0].text == "(angry) Go away! Ha (sic)."
    assert "1 marker left out" in speech.ledger.warnings[0]
    with pytest.raises(InvalidTextError, match="only markers"):
        await service.speak(asked(text="(laughing)"))


async def test_model_that_may_know_markers_gets_them(
    service: SynthesisService, engine: FakeEngineClient
):
    await all_bytes(await service.speak(asked(text="(angry) Go away!")))
    assert engine.requests[0].text == "(angry) Go away!"


async def test_voice_and_recording_exclude_each_other(service: SynthesisService):
    with pytest.raises(InvalidInputError, match="send one of the two"):
        await service.speak(asked(voice="alto", reference=UploadedReference(b"x")))


async def test_unknown_format_is_refused_before_any_work(
    service: SynthesisService, engine: FakeEngineClient
):
    with pytest.raises(UnsupportedFormatError, match="wav"):
        await service.speak(asked(format="midi"))
    assert engine.requests == []


async def test_full_queue_refuses_new_speech(service: SynthesisService, engine: FakeEngineClient):
    engine.num_refusals = 1
    with pytest.raises(QueueFullError):
        await service.speak(asked())
    assert service.recent.find("r1").status is RequestStatus.REJECTED


async def test_full_queue_does_not_end_speech_that_has_begun(
    service: SynthesisService, engine: FakeEngineClient
):
    speech = await service.speak(asked(text=LONG_TEXT))
    engine.num_refusals = 3
    await all_bytes(speech)
    assert engine.num_refusals == 0
    assert " ".join(request.text for request in engine.requests) == LONG_TEXT


async def test_failure_before_the_first_sound_is_raised_by_speak(
    service: SynthesisService, engine: FakeEngineClient
):
    engine.fail_at_frame = 0
    with pytest.raises(GenerationError):
        await service.speak(asked())
    record = service.recent.find("r1")
    assert (record.status, record.error) == (RequestStatus.FAILED, "GenerationError")


async def test_failure_after_the_first_sound_is_raised_by_the_chunks(
    service: SynthesisService, engine: FakeEngineClient
):
    engine.fail_at_frame = 12
    speech = await service.speak(asked())
    with pytest.raises(GenerationError):
        await all_bytes(speech)
    assert service.recent.find("r1").status is RequestStatus.FAILED
    assert engine.idle.is_set()


async def test_model_that_makes_no_sound_is_a_failure(
    service: SynthesisService, engine: FakeEngineClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tests.fakes.FRAMES_PER_CHARACTER", 0)
    with pytest.raises(GenerationError, match="without a sound"):
        await service.speak(asked())


async def test_caller_that_gives_up_while_waiting_frees_its_place(
    service: SynthesisService, engine: FakeEngineClient
):
    engine.permits = asyncio.Semaphore(0)
    waiting = asyncio.create_task(service.speak(asked()))
    await engine.has_request.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.idle.is_set()
    assert service.recent.find("r1").status is RequestStatus.CANCELLED


async def test_record_tells_what_a_request_cost(service: SynthesisService):
    await all_bytes(await service.speak(asked(voice="alto")))
    record = service.recent.find("r1")
    assert (record.status, record.voice, record.seed, record.format) == (
        RequestStatus.OK,
        "alto",
        5,
        "pcm",
    )
    assert record.audio_s == pytest.approx(24 / FAKE_INFO.frame_rate)
    assert record.stages_s is not None
    assert {stage.value for stage in record.stages_s} == {
        "queue",
        "prefill",
        "semantic",
        "codec",
        "file",
    }
    assert record.ttfa_s is not None
    assert record.total_s is not None
    assert 0 < record.ttfa_s <= record.total_s
    snapshot = service.metrics.snapshot()
    assert snapshot["requests"]["by_status"]["ok"] == 1
    assert snapshot["requests"]["in_progress"] == 0


async def test_nothing_is_spoken_before_the_engine_is_ready(
    make_settings: MakeSettings, engine: FakeEngineClient, model_dir: Path, pool: CpuPool
):
    engine.may_load.clear()
    service = SynthesisService(engine, make_settings(), model_dir, pool)
    opening = asyncio.create_task(service.open())
    with pytest.raises(EngineUnavailableError, match="starting: loading the model"):
        await service.speak(asked())
    engine.may_load.set()
    await opening
    await all_bytes(await service.speak(asked()))


async def test_unusable_voice_file_makes_the_service_fail(
    make_settings: MakeSettings, engine: FakeEngineClient, model_dir: Path, pool: CpuPool
):
    write_voice(model_dir, "broken", codes=[])
    service = SynthesisService(engine, make_settings(), model_dir, pool)
    with pytest.raises(CheckpointError):
        await service.open()
    assert service.status().state is EngineState.FAILED
    assert "broken.json" in service.status().detail


async def test_closed_service_refuses(service: SynthesisService):
    await service.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        await service.speak(asked())
