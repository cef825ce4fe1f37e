"""The scheduler: admission, chunk ramp, credit, cancellation, failure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from backend.core.errors import GenerationError, PromptTooLongError, ServiceClosedError
from backend.core.types import FinishReason, SamplingParams, SynthesisRequest, Turn
from backend.serving.scheduler import Scheduler
from tests.unit.serving.scripted_engine import Notebook, ScriptedEngine


def make(engine: ScriptedEngine, credit: int = 100, max_chunk_frames: int = 8) -> Scheduler:
    ticks = iter(range(10**6))
    return Scheduler(engine, max_chunk_frames, credit, clock=lambda: next(ticks) * 1e-6)


def submit(scheduler: Scheduler, name: str, text: str = "5", **fields: Any) -> Notebook:
    notebook = Notebook()
    scheduler.submit(SynthesisRequest(name, text, **fields), notebook)
    return notebook


def run(scheduler: Scheduler, most: int = 1000) -> int:
    for count in range(most):
        if not scheduler.step():
            return count
    raise AssertionError(f"still busy after {most} steps")


def expected(num_frames: int) -> list[float]:
    return [float(idx) for idx in range(num_frames) for _ in range(4)]


def test_a_request_is_spoken_to_its_end_and_its_slot_is_freed():
    engine = ScriptedEngine()
    scheduler = make(engine)
    heard = submit(scheduler, "a", "11")
    run(scheduler)
    assert heard.samples == expected(11)
    assert heard.summary is not None
    assert heard.summary.finish_reason is FinishReason.STOP
    assert heard.summary.num_frames == 11
    assert engine.taken == {}


def test_the_chunks_of_a_stream_grow_and_the_rest_comes_last():
    scheduler = make(ScriptedEngine(), max_chunk_frames=8)
    heard = submit(scheduler, "a", "26")
    run(scheduler)
    assert heard.chunk_frames == [1, 2, 4, 8, 8, 3]


def test_without_streaming_only_the_largest_chunks_are_made():
    scheduler = make(ScriptedEngine(), max_chunk_frames=8)
    heard = submit(scheduler, "a", "18", stream=False)
    run(scheduler)
    assert heard.chunk_frames == [8, 8, 2]
    assert heard.samples == expected(18)


def test_the_first_chunk_comes_with_the_first_step():
    scheduler = make(ScriptedEngine())
    heard = submit(scheduler, "a")
    scheduler.step()
    assert heard.chunk_frames == [1]


def test_known_codes_are_only_decoded():
    engine = ScriptedEngine()
    scheduler = make(engine)
    codes = np.tile(np.arange(6, dtype=np.int32), (2, 1))
    heard = submit(scheduler, "a", "", codes=codes)
    run(scheduler)
    assert heard.samples == expected(6)
    assert heard.summary is not None
    assert heard.summary.finish_reason is FinishReason.CODES
    assert not [line for line in engine.log if line.startswith(("prefill", "step"))]
    assert engine.taken == {}


def test_running_sequences_take_turns_frame_by_frame():
    engine = ScriptedEngine(max_slots=2)
    scheduler = make(engine)
    first, second = submit(scheduler, "a", "4"), submit(scheduler, "b", "4")
    run(scheduler)
    assert "step 0 1" in engine.log
    assert first.samples == second.samples == expected(4)


def test_a_third_request_waits_for_a_slot_and_is_served_in_order():
    engine = ScriptedEngine(max_slots=1)
    scheduler = make(engine)
    heard = [submit(scheduler, name, text) for name, text in (("a", "1"), ("b", "2"), ("c", "3"))]
    scheduler.step()
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)
    run(scheduler)
    assert [line for line in engine.log if line.startswith("prefill")] == [
        "prefill 1",
        "prefill 2",
        "prefill 3",
    ]
    assert all(notebook.summary for notebook in heard)
    assert heard[2].summary is not None
    assert heard[2].summary.queue_s > 0


def test_one_step_admits_only_one_so_that_running_ones_go_on():
    engine = ScriptedEngine(max_slots=3)
    scheduler = make(engine)
    for name in "abc":
        submit(scheduler, name)
    scheduler.step()
    assert engine.log.count("prefill 5") == 1
    assert "step 0" in engine.log


def test_a_listener_without_credit_pauses_only_itself():
    engine = ScriptedEngine(max_slots=2)
    scheduler = make(engine, credit=2, max_chunk_frames=1)
    slow, quick = submit(scheduler, "slow", "9"), submit(scheduler, "quick", "9")
    for _ in range(50):
        scheduler.step()
        scheduler.grant("quick")
    assert quick.samples == expected(9)
    assert slow.chunk_frames == [1, 1]
    assert run(scheduler) == 0  # nothing to do: it does not spin
    for _ in range(9):
        scheduler.grant("slow")
        run(scheduler)
    assert slow.samples == expected(9)
    assert slow.summary is not None


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_a_cancelled_request_is_silent_and_frees_its_slot(num_steps: int):
    engine = ScriptedEngine(max_slots=1)
    scheduler = make(engine)
    heard = submit(scheduler, "a", "20")
    for _ in range(num_steps):
        scheduler.step()
    heard_so_far = len(heard.samples)
    scheduler.cancel("a")
    assert run(scheduler) == 0
    assert len(heard.samples) == heard_so_far
    assert not heard.has_ended
    assert engine.taken == {}


def test_cancelling_what_is_not_there_does_nothing():
    scheduler = make(ScriptedEngine())
    heard = submit(scheduler, "a")
    scheduler.cancel("b")
    scheduler.grant("b")
    run(scheduler)
    assert heard.samples == expected(5)


def test_a_failing_prefill_ends_only_its_own_request():
    engine = ScriptedEngine()
    scheduler = make(engine)
    bad, good = submit(scheduler, "a", "!"), submit(scheduler, "b")
    run(scheduler)
    assert isinstance(bad.error, GenerationError)
    assert "no such text" in str(bad.error)
    assert good.samples == expected(5)
    assert engine.taken == {}


def test_a_failing_step_ends_its_batch_and_the_next_request_is_served():
    engine = ScriptedEngine(fails_at=2)
    scheduler = make(engine)
    heard = submit(scheduler, "a")
    run(scheduler)
    assert isinstance(heard.error, GenerationError)
    assert engine.taken == {}
    engine.fails_at = None
    again = submit(scheduler, "b")
    run(scheduler)
    assert again.samples == expected(5)


def test_fail_all_reaches_running_and_waiting_requests():
    engine = ScriptedEngine(max_slots=1)
    scheduler = make(engine)
    heard = [submit(scheduler, name) for name in "ab"]
    scheduler.step()
    scheduler.fail_all(ServiceClosedError("closing"))
    assert [type(notebook.error) for notebook in heard] == [ServiceClosedError] * 2
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
    assert run(scheduler) == 0


def test_the_stages_are_timed():
    scheduler = make(ScriptedEngine())
    heard = submit(scheduler, "a")
    run(scheduler)
    assert heard.summary is not None
    assert heard.summary.prefill_s > 0
    assert heard.summary.semantic_s > 0
    assert heard.summary.codec_s > 0


class BatchingScriptedEngine(ScriptedEngine):
    """Reads several prompts in one call; a faulty one refuses the call."""

    def prefill_many(
        self, asked: Sequence[tuple[str, Sequence[Turn], SamplingParams]]
    ) -> list[int]:
        self.log.append(f"prefill {len(asked)} together")
        if any(text == "!" for text, _, _ in asked):
            raise PromptTooLongError("one of them is too long")
        return [self.prefill(text, turns, sampling) for text, turns, sampling in asked]


def test_a_prompt_at_fault_ends_only_its_own_request_when_several_are_read_together():
    engine = BatchingScriptedEngine(max_slots=4)
    scheduler = make(engine)
    scheduler.cost.prefill.observe(2, 1e-5)  # short enough to be read together
    heard = [submit(scheduler, name, text) for name, text in zip("abc", "3!4", strict=True)]
    run(scheduler)
    assert "prefill 3 together" in engine.log
    assert isinstance(heard[1].error, GenerationError)
    assert [notebook.samples for notebook in heard] == [expected(3), [], expected(4)]
    assert engine.taken == {}
