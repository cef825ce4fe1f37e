"""What is kept, sent again or given up when an engine dies."""

import numpy as np
import pytest

from backend.core.errors import EngineDiedError
from backend.core.types import AudioChunk, SynthesisRequest
from backend.worker.open_work import MAX_DEATHS_SEEN, OpenRequest, OpenWork
from backend.worker.protocol import Answered, Audio, Began, Call, Failed, Pong, Submit

CHUNK = AudioChunk(np.zeros(4, np.float32), np.zeros((2, 1), np.int32))


def opened(work: OpenWork, name: str) -> OpenRequest:
    return work.open_request(SynthesisRequest(name, "text"))


def sent_again(work: OpenWork) -> list[str]:
    return [c.request.request_id for c in work.commands() if isinstance(c, Submit)]


async def test_waiting_and_begun_requests_are_sent_again_in_their_order():
    work = OpenWork()
    for name in "abc":
        opened(work, name)
    work.take(Began("a"))
    work.take(Began("c"))
    assert (work.num_running, work.num_requests) == (2, 3)
    assert work.engine_died("it died") == 0
    assert work.num_running == 0
    assert sent_again(work) == ["a", "b", "c"]


async def test_a_request_with_sound_ends_after_what_was_heard():
    work = OpenWork()
    one = opened(work, "a")
    work.take(Began("a"))
    work.take(Audio("a", CHUNK))
    assert work.engine_died("it died") == 1
    assert await one.mailbox.take() is CHUNK
    with pytest.raises(EngineDiedError, match="it died while it spoke"):
        await one.mailbox.take()
    assert one.has_ended
    assert sent_again(work) == []


async def test_the_second_death_after_its_beginning_ends_a_request():
    work = OpenWork()
    one, other = opened(work, "a"), opened(work, "b")
    for _ in range(2):
        work.take(Began("a"))
        work.engine_died("it died")
    with pytest.raises(EngineDiedError, match="it died, again"):
        await one.mailbox.take()
    assert not other.has_ended
    assert sent_again(work) == ["b"]


async def test_no_request_waits_through_deaths_without_end():
    work = OpenWork()
    one = opened(work, "a")
    for _ in range(MAX_DEATHS_SEEN):
        assert not one.has_ended
        work.engine_died("it died")
    assert one.has_ended


async def test_a_call_is_sent_twice_at_most():
    work = OpenWork()
    command, answer = work.open_call("prompt_length", ("abc", ()))
    work.note_sent(command)
    work.engine_died("it died")
    assert work.commands() == [command]
    work.engine_died("it died")
    with pytest.raises(EngineDiedError):
        await answer
    assert work.is_empty


async def test_a_call_that_was_never_sent_is_not_counted():
    work = OpenWork()
    command, _ = work.open_call("prompt_length", ("abc", ()))
    for _ in range(3):
        work.engine_died("it died")
    assert work.commands() == [command]


async def test_results_for_those_who_have_left_are_dropped():
    work = OpenWork()
    one = opened(work, "a")
    work.close_request(one)
    command, _ = work.open_call("prompt_length", ("abc", ()))
    work.close_call(command)
    for event in (Began("a"), Audio("a", CHUNK), Failed("a", ValueError()), Answered(0, 3)):
        work.take(event)
    assert work.is_empty


async def test_names_that_are_taken_are_made_different():
    work = OpenWork()
    names = {opened(work, "a").request.request_id for _ in range(3)}
    assert len(names) == 3
    assert "a" in names


async def test_an_event_about_no_request_is_a_mistake():
    with pytest.raises(AssertionError, match="Pong"):
        OpenWork().take(Pong())


async def test_a_call_carries_its_arguments():
    command, _ = OpenWork().open_call("prompt_length", ("abc", ()))
    assert command == Call(command.call_id, "prompt_length", ("abc", ()))
