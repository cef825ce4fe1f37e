# ruff: noqa: RUF001 - full-width punctuation is what is tested
from __future__ import annotations

import re

import pytest

from backend.core.errors import InvalidTextError
from backend.service.text import clean_text, split_text, text_weight, tidy_text

LIMIT = 10_000


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b\ufeff", "\x00\x01"])
def test_empty_text_is_refused(text: str):
    with pytest.raises(InvalidTextError, match="empty"):
        clean_text(text, LIMIT)


@pytest.mark.parametrize("text", ["...", "?!", "—", "🎉🎉", "( )", "。", "* * *"])
def test_text_without_letters_and_digits_is_refused(text: str):
    with pytest.raises(InvalidTextError, match="nothing to speak"):
        clean_text(text, LIMIT)


def test_long_text_is_refused_with_the_limit():
    with pytest.raises(InvalidTextError, match="11 characters; the limit is 10"):
        clean_text("a" * 11, 10)
    assert clean_text("a" * 10, 10) == "a" * 10


@pytest.mark.parametrize("text", ["7", "Ω", "안녕", "مرحبا", "(laughing)", "ok 🎉"])
def test_text_of_any_script_is_accepted(text: str):
    assert clean_text(text, LIMIT) == text


def test_text_is_written_in_one_way():
    assert tidy_text("  e\u0301te\x07  foo\r\n\r\n bar\u00ad baz\u200b ") == "éte foo\nbar baz"


@pytest.mark.parametrize(
    ("text", "weight", "segments"),
    [
        ("Hello there. How are you?", 14, ["Hello there.", "How are you?"]),
        ("Wait! What? No.", 5, ["Wait!", "What?", "No."]),
        ('"Stop!" "Why?" she asked.', 18, ['"Stop!"', '"Why?" she asked.']),
        ("Well... maybe. Fine.", 14, ["Well... maybe.", "Fine."]),
        ("One line\nAnother line", 12, ["One line", "Another line"]),
        ("今天很好。我们走吧！好吗？", 15, ["今天很好。", "我们走吧！", "好吗？"]),
        ("¿Qué tal? ¡Muy bien!", 11, ["¿Qué tal?", "¡Muy bien!"]),
        ("كيف حالك؟ أنا بخير.", 10, ["كيف حالك؟", "أنا بخير."]),
        ("यह ठीक है। वह भी।", 11, ["यह ठीक है।", "वह भी।"]),
    ],
)
def test_text_is_cut_after_sentences(text: str, weight: int, segments: list[str]):
    assert split_text(text, weight) == segments


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met Mr. Jones.",
        "It costs 3.50 dollars.",
        "He saw J. R. Hartley.",
        "Some fruit, e.g. apples.",
        "Das ist z.B. am 3. Mai.",
        "See version 2.0.1 first.",
        "Yahoo! is a company.",
        "Visit example.com today.",
        "No. 5 is alive.",
        "He said (It is fine. Really.) so.",
    ],
)
def test_stops_inside_a_sentence_do_not_cut_it(sentence: str):
    assert split_text(f"{sentence} Then this came.", len(sentence) + 1) == [
        sentence,
        "Then this came.",
    ]


def test_sentences_that_fit_together_share_a_segment():
    text = "One. Two. Three. Four. Five."
    assert split_text(text, 16) == ["One. Two. Three.", "Four. Five."]
    assert split_text(text) == [text]


def test_heavy_sentence_is_cut_after_clauses_then_words_then_anywhere():
    assert split_text("one two three, four five six", 15) == ["one two three,", "four five six"]
    assert split_text("one two three four", 9) == ["one two", "three", "four"]
    assert split_text("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_marker_stays_with_the_words_after_it():
    text = "He left. (sad) She stayed there (in a hurry tone) and wept for long."
    assert split_text(text, 24) == [
        "He left.",
        "(sad) She stayed there",
        "(in a hurry tone) and",
        "wept for long.",
    ]


def test_marker_at_the_end_stays_with_the_words_before_it():
    assert split_text("That is funny. (laughing)", 15) == ["That is funny. (laughing)"]


@pytest.mark.parametrize("weight", [1, 3, 7, 20, 50])
@pytest.mark.parametrize(
    "text",
    [
        'Dr. Smith paid $3.50! (laughing) Ha, ha. "Really?" she asked; it was e.g. nice.',
        "今天天气很好。我们去公园吧！好吗？（笑声）哈哈。",
        "a" * 30 + " b " + "c, " * 20,
    ],
)
def test_no_character_is_lost_and_weights_are_kept(text: str, weight: int):
    segments = split_text(text, weight)
    assert "".join("".join(segments).split()) == "".join(text.split())
    bare = [re.sub(r"[(（][^)）]*[)）]", "", segment) for segment in segments]
    assert all(text_weight(segment.strip()) <= max(weight, 3) + 3 for segment in bare)


@pytest.mark.parametrize("text", ["!" * 100_000 + "a", "(" * 100_000 + "a", "a." * 50_000])
def test_hostile_text_is_cut_in_linear_time(text: str):
    assert "".join("".join(split_text(text)).split()) == text  # pytest-timeout is the judge


def test_wide_characters_weigh_three():
    assert text_weight("ab日本") == 8
