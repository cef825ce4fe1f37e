"""The real engine with the pocket voice: every verb, its limits, and what must stay equal."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.core.contract import FrameChunk
from backend.core.errors import CheckpointError, GenerationError, PromptTooLongError
from backend.core.settings import Settings, read_settings
from backend.core.types import SamplingParams, Turn
from backend.opt_engine import OptimizedEngine

POCKET = Path(__file__).parents[2] / "backend" / "pocket"
TEXT = "The quick brown fox jumps over the lazy dog."
DRAWN = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=11)


def settings_of(**values: object) -> Settings:
    return read_settings(None, device="cpu", cpu_threads=1, **values)


def load(**settings: object) -> OptimizedEngine:
    return OptimizedEngine.load(settings_of(**settings), POCKET)


@pytest.fixture(scope="module")
def engine() -> Iterator[OptimizedEngine]:
    engine = load()
    yield engine
    engine.close()


def run(engine: OptimizedEngine, slot: int, num_frames: int) -> list[np.ndarray]:
    frames = []
    for _ in range(num_frames):
        [result] = engine.decode_step([slot])
        if result.codes is None:
            break
        frames.append(result.codes)
    return frames


def speak(engine: OptimizedEngine, sampling: SamplingParams, num_frames: int = 12) -> np.ndarray:
    slot = engine.prefill(TEXT, [], sampling)
    frames = run(engine, slot, num_frames)
    engine.release(slot)
    return np.stack(frames, axis=1)


def tone(num_samples: int, sample_rate: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 150 * np.arange(num_samples) / sample_rate)).astype(np.float32)


def test_warm_up_leaves_every_slot_free(engine: OptimizedEngine):
    engine.warm_up()
    slots = [engine.open_slot() for _ in range(engine.max_slots)]
    with pytest.raises(GenerationError, match="slots are taken"):
        engine.open_slot()
    for slot in slots:
        engine.release(slot)


def test_encode_reference_gives_a_frame_for_every_started_frame(engine: OptimizedEngine):
    info = engine.info
    codes = engine.encode_reference(tone(info.frame_length * 3 + 1, info.sample_rate))
    assert codes.shape == (info.num_codebooks, 4)
    assert codes.dtype == np.int32
    assert (codes.max(axis=1) < info.codebook_sizes).all()


def test_codes_stay_inside_their_codebooks(engine: OptimizedEngine):
    codes = speak(engine, SamplingParams(temperature=1.9, top_p=1.0, seed=3))
    assert codes.min() >= 0
    assert (codes.max(axis=1) < engine.info.codebook_sizes).all()


def test_the_same_seed_draws_the_same_codes_and_another_seed_others(engine: OptimizedEngine):
    other = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=12)
    assert np.array_equal(speak(engine, DRAWN), speak(engine, DRAWN))
    assert not np.array_equal(speak(engine, DRAWN), speak(engine, other))


def test_a_restarted_engine_draws_the_same_codes(engine: OptimizedEngine):
    fresh = load()
    assert np.array_equal(speak(engine, DRAWN), speak(fresh, DRAWN))
    fresh.close()


def test_a_sequence_in_company_draws_what_it_draws_alone(engine: OptimizedEngine):
    alone = speak(engine, DRAWN, num_frames=8)
    slot = engine.prefill(TEXT, [], DRAWN)
    company = engine.prefill("Somebody else.", [], SamplingParams(seed=5))
    frames = []
    for _ in range(8):
        results = engine.decode_step([company, slot])
        frames.append(results[1].codes)
    engine.release(slot)
    engine.release(company)
    assert np.array_equal(np.stack(frames, axis=1), alone)


def test_prompts_together_are_spoken_as_alone(engine: OptimizedEngine):
    voice = Turn("A voice.", speak(engine, DRAWN))
    asked = [(TEXT, [], DRAWN), ("One.", [voice], DRAWN), (TEXT, [voice, voice], DRAWN)]
    together = engine.prefill_many(asked)
    frames = [np.stack(run(engine, slot, 5)) for slot in together]
    for slot in together:
        engine.release(slot)
    for (text, turns, sampling), expected in zip(asked, frames, strict=True):
        slot = engine.prefill(text, turns, sampling)
        assert np.array_equal(np.stack(run(engine, slot, 5)), expected)
        engine.release(slot)


def test_one_prompt_without_room_takes_no_slot_for_any(engine: OptimizedEngine):
    asked = [(TEXT, [], DRAWN), (TEXT * 200, [], DRAWN)]
    with pytest.raises(PromptTooLongError):
        engine.prefill_many(asked)
    with pytest.raises(GenerationError, match="slots are taken"):
        engine.prefill_many(asked[:1] * (engine.max_slots + 1))
    slots = engine.prefill_many(asked[:1] * engine.max_slots)
    for slot in slots:
        engine.release(slot)


def test_streamed_samples_equal_those_of_one_decode(engine: OptimizedEngine):
    codes = speak(engine, DRAWN, num_frames=9)
    whole_slot, slot = engine.open_slot(), engine.open_slot()
    [whole] = engine.decode_frames([FrameChunk(whole_slot, codes)])
    parts = [
        engine.decode_frames([FrameChunk(slot, part)])[0]
        for part in np.split(codes, [1, 3, 7], axis=1)
    ]
    engine.release(whole_slot)
    engine.release(slot)
    assert whole.shape == (9 * engine.info.frame_length,)
    assert whole.dtype == np.float32
    assert np.abs(np.concatenate(parts) - whole).max() <= 1e-6


def test_the_codecs_chunk_limit_does_not_change_the_samples(engine: OptimizedEngine):
    codes = speak(engine, DRAWN, num_frames=7)
    small = load(chunk_size=2)
    results = []
    for each in (engine, small):
        slot = each.open_slot()
        results += each.decode_frames([FrameChunk(slot, codes)])
        each.release(slot)
    small.close()
    assert np.abs(results[0] - results[1]).max() <= 1e-6


def test_a_reused_slot_remembers_nothing(engine: OptimizedEngine):
    first = speak(engine, DRAWN)
    speak(engine, SamplingParams(seed=99), num_frames=3)
    assert np.array_equal(speak(engine, DRAWN), first)


def test_a_turn_changes_what_is_said(engine: OptimizedEngine):
    sampling = SamplingParams(temperature=0.0, repetition_penalty=1.0)
    codes = speak(engine, DRAWN, num_frames=6)
    slot = engine.prefill(TEXT, [Turn("Good morning.", codes)], sampling)
    turned = np.stack(run(engine, slot, 12), axis=1)
    engine.release(slot)
    assert not np.array_equal(turned, speak(engine, sampling))


def test_max_new_tokens_ends_a_sequence_after_that_many_frames(engine: OptimizedEngine):
    slot = engine.prefill(TEXT, [], SamplingParams(max_new_tokens=1))
    first, second = engine.decode_step([slot])[0], engine.decode_step([slot])[0]
    engine.release(slot)
    assert first.codes is not None
    assert second.codes is None
    assert second.hit_limit


def test_min_new_tokens_keeps_a_sequence_from_ending_and_changes_nothing_before(
    engine: OptimizedEngine,
):
    def speak_hi(least: int) -> np.ndarray:
        slot = engine.prefill("Hi.", [], SamplingParams(seed=1, min_new_tokens=least))
        frames = run(engine, slot, 120)
        engine.release(slot)
        return np.stack(frames, axis=1)

    natural = speak_hi(0)
    num_frames = natural.shape[1]
    assert num_frames < 120, "it must end by itself for this to show anything"
    forced = speak_hi(num_frames + 5)
    assert forced.shape[1] >= num_frames + 5
    assert np.array_equal(forced[:, :num_frames], natural)


def test_the_last_position_ends_a_sequence():
    engine = load(max_seq_len=256)
    text = "a" * 120
    slot = engine.prefill(text, [], SamplingParams(temperature=1.0, seed=1))
    num_frames = 0
    while not (result := engine.decode_step([slot])[0]).hit_limit:
        num_frames += result.codes is not None  # ends that the model proposes are passed over
    # the prompt, then a position for every frame
    assert num_frames == 256 - engine.prompt_length(text, [])
    engine.close()


def test_a_prompt_without_room_for_speech_is_refused_and_frees_its_slot():
    engine = load(max_seq_len=256, max_slots=1)
    for _ in range(3):
        with pytest.raises(PromptTooLongError, match="at most 128 are allowed"):
            engine.prefill("a" * 200, [], SamplingParams())
    assert engine.open_slot() == 0
    engine.close()


def test_prompt_length_counts_text_and_frames(engine: OptimizedEngine):
    codes = np.zeros((engine.info.num_codebooks, 5), dtype=np.int32)
    plain = engine.prompt_length("Hello.", [])
    # speaker tag, five frames, end of turn, and "Hi." as three bytes
    assert engine.prompt_length("Hello.", [Turn("Hi.", codes)]) == plain + 1 + 3 + 5 + 1


def test_a_codec_of_another_model_is_refused(tmp_path: Path):
    for file in POCKET.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "special_tokens.json").read_text())
    last = max(int(name[11:-2]) for name in config if name.startswith("<|semantic:"))
    del config[f"<|semantic:{last}|>"]
    (tmp_path / "special_tokens.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="from the same checkpoint"):
        OptimizedEngine.load(settings_of(), tmp_path)


def test_a_slot_without_a_prompt_cannot_be_stepped(engine: OptimizedEngine):
    slot = engine.open_slot()
    with pytest.raises(GenerationError, match="without a prompt"):
        engine.decode_step([slot])
    engine.release(slot)


def test_info_tells_sizes_that_fit_together(engine: OptimizedEngine):
    info = engine.info
    assert info.model == "pocket"
    assert info.device == "cpu"
    assert info.precision == "fp32"
    assert info.num_codebooks == len(info.codebook_sizes)
    assert info.max_prompt_positions < info.max_positions
    assert engine.memory_bytes() == (None, None)
