from __future__ import annotations

import asyncio

import pytest

from backend.core.errors import InvalidTextError
from backend.service.ledger import SpeechLedger
from backend.service.live_text import LiveText, live_segments
from backend.service.text import SEGMENT_WEIGHT, finished_length, text_weight

TEXTS = [
    "Hello there. How are you? I am Dr. Smith, and 3.14 is pi, e.g. this. Ok",
    "你好。世界！再见",  # noqa: RUF001
    "(excited) Wow! (laughing) Ha ha. \nA new line\nnext",
    'He said "Stop." Then he left. (sad) Bye.',
    "No end " * 100,
    "x" * 1000,
    "",
]


def written_in_pieces(text: str, size: int) -> list[str]:
    """Give the parts that were finished while ``text`` was written, and the rest."""
    parts: list[str] = []
    growing = ""
    for start in range(0, len(text), size):
        growing += text[start : start + size]
        length = finished_length(growing)
        if length:
            parts.append(growing[:length])
            growing = growing[length:]
    return [*parts, growing]


async def segments_of(live: LiveText, model: str = "other") -> list[str]:
    return [segment async for segment in live_segments(live, model, SpeechLedger("id"))]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_no_character_is_lost_or_spoken_twice(text: str, size: int):
    assert "".join(written_in_pieces(text, size)) == text


def test_a_sentence_is_finished_when_the_next_one_begins():
    assert finished_length("Hello there.") == 0
    assert finished_length("Hello there. ") == 0
    assert finished_length("Hello there. H") == len("Hello there.")


@pytest.mark.parametrize("text", ["It costs 3.", "I know Dr.", "Well, e.g.", "Wow! (laugh"])
def test_what_may_go_on_is_not_finished(text: str):
    assert finished_length(text) in (0, len("Wow!"))
    assert "laugh" not in text[: finished_length(text)]


def test_numbers_and_abbreviations_stay_whole():
    assert written_in_pieces("It is 3.14 km to Dr. Who. Go on.", 1) == [
        "It is 3.14 km to Dr. Who.",
        " Go on.",
    ]


def test_an_endless_sentence_is_cut_before_it_gets_too_heavy():
    for text in ("word " * 200, "x" * 1000, "好" * 400):
        parts = written_in_pieces(text, 1)
        assert len(parts) > 2
        assert all(text_weight(part) <= SEGMENT_WEIGHT + 3 for part in parts)


async def test_sentences_come_out_while_the_text_is_written():
    live = LiveText(1000)
    stretches = live.stretches()
    live.feed("The first one. The sec")
    assert await anext(stretches) == "The first one."
    waiting = asyncio.ensure_future(anext(stretches))
    await asyncio.sleep(0)
    assert not waiting.done()
    live.feed("ond one. And")
    assert await waiting == " The second one."
    live.end()
    assert [rest async for rest in stretches] == [" And"]


async def test_sentences_that_piled_up_are_spoken_together():
    live = LiveText(1000)
    live.feed("One. Two. Three. ")
    live.end()
    assert await segments_of(live) == ["One. Two. Three."]


async def test_a_flush_gives_what_is_there():
    live = LiveText(1000)
    stretches = live.stretches()
    live.feed("half a sen")
    live.flush()
    assert await anext(stretches) == "half a sen"
    live.feed("tence")
    live.flush()
    assert await anext(stretches) == "tence"


async def test_markers_wait_for_the_words_they_belong_to():
    live = LiveText(1000)
    live.feed("(laughing).")
    live.flush()
    live.feed(" Ha ha.")
    live.end()
    assert await segments_of(live) == ["(laughing). Ha ha."]


async def test_markers_at_the_end_are_not_lost():
    live = LiveText(1000)
    live.feed("Bye. (sighing)")
    live.end()
    assert " ".join(await segments_of(live)) == "Bye. (sighing)"


async def test_punctuation_alone_is_passed_over():
    live = LiveText(1000)
    for piece in ("...", "Yes.", "!!", "\n"):
        live.feed(piece)
        live.flush()
    live.end()
    assert [segment.strip(".! ") for segment in await segments_of(live)] == ["Yes"]


async def test_a_text_without_words_is_an_error():
    live = LiveText(1000)
    live.feed(" ... ")
    live.end()
    with pytest.raises(InvalidTextError, match="at least one"):
        await segments_of(live)


def test_a_text_beyond_the_limit_is_refused():
    live = LiveText(10)
    live.feed("x" * 10)
    with pytest.raises(InvalidTextError, match="MAX_TEXT_CHARS"):
        live.feed("x")


async def test_time_counts_from_the_first_segment():
    now_s = 0.0
    ledger = SpeechLedger("id", clock=lambda: now_s)
    live = LiveText(1000)
    segments = live_segments(live, "other", ledger)
    waiting = asyncio.ensure_future(anext(segments))
    await asyncio.sleep(0)
    now_s = 60.0
    live.feed("Now.")
    live.end()
    assert await waiting == "Now."
    assert ledger.now_s() == 0.0
