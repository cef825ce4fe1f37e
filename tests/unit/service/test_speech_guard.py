"""Speech that goes wrong is noticed, made again or cut; speech that does not is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.types import AudioChunk, FinishReason, SynthesisRequest
from backend.service.cpu_pool import CpuPool
from backend.service.requests import SamplingOverrides, Speech, SpeechRequest
from backend.service.speech_guard import Finding, SpeechGuard, Trouble, is_drawn_out, max_frames
from backend.service.synthesis import SynthesisService
from backend.service.takes import faded
from tests.conftest import MakeSettings
from tests.fakes import FAKE_INFO, FakeEngineClient, fake_samples

TEXT = "Hello there."
RATE = FAKE_INFO.frame_rate
LIMIT = max_frames(TEXT, RATE)
LONG_TEXT = "Some words, all different from one another, and a few more that follow at the end."


def noise_codes(num_frames: int, seed: int = 1) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 16, (3, num_frames)).astype(np.int32)


def looped_codes(period: int, num_frames: int) -> NDArray[np.int32]:
    return np.tile(noise_codes(period), num_frames // period + 1)[:, :num_frames]


def watched(
    guard: SpeechGuard,
    codes: NDArray[np.int32],
    samples: NDArray[np.float32] | None = None,
    chunk_frames: int = 7,
) -> Finding | None:
    samples = fake_samples(codes) if samples is None else samples
    length = FAKE_INFO.frame_length
    for start in range(0, codes.shape[1], chunk_frames):
        end = min(start + chunk_frames, codes.shape[1])
        chunk = AudioChunk(samples[start * length : end * length], codes[:, start:end])
        if finding := guard.watch(chunk):
            return finding
    return guard.finish()


def test_speech_as_long_as_its_text_may_be_is_good_and_one_frame_more_is_too_long():
    assert watched(SpeechGuard(TEXT, FAKE_INFO), noise_codes(LIMIT)) is None
    finding = watched(SpeechGuard(TEXT, FAKE_INFO), noise_codes(LIMIT + 1))
    assert finding == Finding(Trouble.TOO_LONG, LIMIT)


@pytest.mark.parametrize("period", [1, 3, 50])
@pytest.mark.parametrize("chunk_frames", [1, 32, 1000])
def test_a_loop_is_found_wherever_chunks_end(period: int, chunk_frames: int):
    text = LONG_TEXT
    good = noise_codes(40, seed=2)
    codes = np.concatenate([good, looped_codes(period, 400)], axis=1)
    finding = watched(SpeechGuard(text, FAKE_INFO), codes, chunk_frames=chunk_frames)
    assert finding is not None
    assert finding.trouble is Trouble.REPEATING
    # what came first of the loop was no repetition yet
    assert abs(finding.good_frames - (40 + period)) <= 1


def test_a_short_loop_and_a_text_that_repeats_itself_are_good():
    text = "A long text. " * 4
    codes = np.concatenate([looped_codes(5, 190), noise_codes(50)], axis=1)
    assert watched(SpeechGuard(LONG_TEXT, FAKE_INFO), codes) is None
    assert is_drawn_out(text)
    assert watched(SpeechGuard("Na, na na na na, " * 20, FAKE_INFO), looped_codes(5, 400)) is None


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("Aaaaah!", True),
        ("no no no no", True),
        ("Ha, ha, ha, ha!", True),
        ("Well, well, well.", False),
        ("The quick brown fox jumps over the lazy dog.", False),
        ("It was the best of times, it was the worst of times.", False),
    ],
)
def test_texts_that_repeat_themselves_are_known(text: str, is_so: bool):
    assert is_drawn_out(text) is is_so


def test_a_long_silence_is_found_and_a_pause_is_not():
    text = LONG_TEXT
    codes = noise_codes(600)
    samples = fake_samples(codes)
    length, limit = FAKE_INFO.frame_length, round(4 * RATE)
    samples[100 * length : (100 + limit) * length] = 0.0
    assert watched(SpeechGuard(text, FAKE_INFO), codes, samples) is None
    samples[100 * length : (101 + limit) * length] *= 0.0
    assert watched(SpeechGuard(text, FAKE_INFO), codes, samples) == Finding(Trouble.SILENT, 100)
    # a marker may be a pause of its own
    assert watched(SpeechGuard(f"(sighing) {text}", FAKE_INFO), codes, samples) is None


def test_speech_that_is_all_silence_is_found_at_its_end():
    codes = noise_codes(20)
    silence = np.zeros(20 * FAKE_INFO.frame_length, np.float32)
    assert watched(SpeechGuard(TEXT, FAKE_INFO), codes, silence) == Finding(Trouble.SILENT, 0)


def test_numbers_markers_and_marks_may_take_their_time():
    plain = max_frames("abcdefgh", RATE)
    assert max_frames("abcd1234", RATE) > plain + RATE * 5
    assert max_frames("(sighing) abcdefgh", RATE) >= plain + RATE * 4
    assert max_frames("abcd, efgh.", RATE) >= plain + RATE * 2
    assert max_frames("\u6f22\u5b57\u6f22\u5b57", RATE) > max_frames("abcd", RATE)


def test_the_last_frame_of_a_cut_fades_out():
    codes = noise_codes(3)
    chunk = AudioChunk(np.ones(3 * FAKE_INFO.frame_length, np.float32), codes)
    cut = faded(chunk, 2)
    assert cut.codes.shape[1] == 2
    assert cut.samples.size == 2 * FAKE_INFO.frame_length
    assert cut.samples[FAKE_INFO.frame_length - 1] == 1.0
    assert cut.samples[-1] == 0.0
    assert (chunk.samples == 1.0).all()


class Babbler(FakeEngineClient):
    """Falls into a loop in the first ``num_bad`` takes, after 30 good frames."""

    num_bad = 1

    def _codes_of(self, request: SynthesisRequest) -> tuple[NDArray[np.int32], FinishReason]:
        codes, reason = super()._codes_of(request)
        if request.codes is None and len(self.requests) <= self.num_bad:
            loop = np.zeros((3, 5000), np.int32)
            return np.concatenate([noise_codes(30), loop], axis=1), reason
        return codes, reason


@pytest.fixture
def engine() -> Babbler:
    return Babbler()


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    made = CpuPool(1)
    yield made
    made.close()


@pytest.fixture
async def service(
    make_settings: MakeSettings, engine: Babbler, model_dir: Path, pool: CpuPool
) -> AsyncIterator[SynthesisService]:
    made = SynthesisService(engine, make_settings(), model_dir, pool)
    await made.open()
    yield made
    await made.close()


def asked(**changes: object) -> SpeechRequest:
    values = {"request_id": "r1", "text": TEXT, "seed": 5, "format": "pcm", **changes}
    return SpeechRequest(**values)  # pyright: ignore[reportArgumentType]


async def bytes_of(speech: Speech) -> bytes:
    return b"".join([piece async for piece in speech.chunks()])


def counted(service: SynthesisService) -> list[dict[str, object]]:
    return service.metrics.snapshot()["speech_troubles"]


async def test_a_whole_file_is_made_again_with_another_seed(
    service: SynthesisService, engine: Babbler
):
    speech = await service.speak(asked(stream=False))
    assert len(await bytes_of(speech)) == 2 * FAKE_INFO.frame_length * 2 * len(TEXT)
    first, second = engine.requests
    assert (first.text, first.turns) == (second.text, second.turns)
    assert first.sampling.seed == 5 != second.sampling.seed
    assert speech.ledger.finish_reason is FinishReason.STOP
    assert counted(service) == [{"trouble": "repeating", "action": "retried", "count": 1}]
    assert service.recent.find("r1").troubles == ("repeating",)
    assert engine.idle.is_set()


async def test_a_whole_file_that_goes_wrong_twice_is_cut(
    service: SynthesisService, engine: Babbler
):
    engine.num_bad = 2
    speech = await service.speak(asked(stream=False))
    num_frames = len(await bytes_of(speech)) // 2 // FAKE_INFO.frame_length
    assert 30 <= num_frames <= 32
    assert speech.ledger.finish_reason is FinishReason.CUT
    assert len(engine.requests) == 2
    assert [entry["action"] for entry in counted(service)] == ["retried", "cut"]


async def test_a_stream_is_cut_and_its_slot_freed(service: SynthesisService, engine: Babbler):
    speech = await service.speak(asked())
    sound = await bytes_of(speech)
    num_frames = len(sound) // 2 // FAKE_INFO.frame_length
    assert 200 <= num_frames <= 30 + 4 * RATE + engine.frames_per_chunk
    assert sound[-2:] == b"\x00\x00"
    assert speech.ledger.finish_reason is FinishReason.CUT
    assert speech.ledger.num_frames == num_frames
    assert engine.idle.is_set()
    assert len(engine.requests) == 1
    assert counted(service) == [{"trouble": "repeating", "action": "cut", "count": 1}]
    text = service.metrics.prometheus_text().decode()
    assert 'tts_speech_troubles_total{action="cut",trouble="repeating"} 1.0' in text


async def test_speech_that_went_wrong_is_not_kept(service: SynthesisService, engine: Babbler):
    await bytes_of(await service.speak(asked()))
    await bytes_of(await service.speak(asked()))
    assert [request.codes for request in engine.requests] == [None, None]


async def test_who_demands_a_length_gets_it(service: SynthesisService, engine: Babbler):
    sampling = SamplingOverrides(min_new_tokens=4000, max_new_tokens=4000)
    speech = await service.speak(asked(sampling=sampling, stream=False))
    await bytes_of(speech)
    assert speech.ledger.num_frames > 4000
    assert counted(service) == []


async def test_without_the_guard_speech_comes_as_it_is(
    make_settings: MakeSettings, engine: Babbler, model_dir: Path, pool: CpuPool
):
    service = SynthesisService(engine, make_settings(speech_guard=False), model_dir, pool)
    await service.open()
    speech = await service.speak(asked(stream=False))
    await bytes_of(speech)
    assert speech.ledger.num_frames == 5030
    assert speech.ledger.finish_reason is FinishReason.STOP
    await service.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_good_speech_is_the_same_with_and_without_the_guard(
    make_settings: MakeSettings, engine: Babbler, model_dir: Path, pool: CpuPool, stream: bool
):
    engine.num_bad = 0
    heard = []
    for speech_guard in (True, False):
        settings = make_settings(speech_guard=speech_guard, cache_limit=0)
        service = SynthesisService(engine, settings, model_dir, pool)
        await service.open()
        heard.append(await bytes_of(await service.speak(asked(stream=stream))))
    assert heard[0] == heard[1]
    await service.close()
