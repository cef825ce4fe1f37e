from __future__ import annotations

import pytest

from backend.core.errors import InvalidVoiceError
from backend.service.voice_rules import (
    MAX_NAME_CHARS,
    VoiceChanges,
    VoiceDraft,
    checked_language,
    checked_name,
    checked_note,
    checked_tags,
    checked_transcript,
    voice_key,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada", "aDA"),
        ("Zoë", "Zoe\u0308"),
        ("straße", "STRASSE"),
        ("\uff21da", "ada"),
        (" ada ", "ada"),
    ],
)
def test_names_that_are_the_same(one: str, other: str):
    assert voice_key(one) == voice_key(other)


def test_names_that_differ():
    assert len({voice_key(name) for name in ("ada", "àda", "ada 2", "a da")}) == 4


def test_a_name_is_stored_composed_and_without_outer_spaces():
    assert checked_name("  Zoe\u0308 ") == "Zoë"


def test_a_name_may_be_as_long_as_the_limit_and_no_longer():
    assert checked_name("ü" * MAX_NAME_CHARS)
    with pytest.raises(InvalidVoiceError, match="65 characters"):
        checked_name("ü" * (MAX_NAME_CHARS + 1))


@pytest.mark.parametrize(
    "name", ["CON/", "a\u200bb", "a\ud800", "a\tb", "a;b", "a=b", "a%2fb", "~a"]
)
def test_a_name_has_no_characters_that_mean_something_elsewhere(name: str):
    with pytest.raises(InvalidVoiceError, match="name"):
        checked_name(name)


@pytest.mark.parametrize(
    ("language", "stored"),
    [("", ""), ("EN", "en"), ("pt_BR", "pt-br"), (" zh-Hant ", "zh-hant"), ("yue", "yue")],
)
def test_languages_that_can_be(language: str, stored: str):
    assert checked_language(language) == stored


@pytest.mark.parametrize("language", ["english", "e", "12", "en-", "en--us", "e n", "日本", "-en"])
def test_languages_that_cannot_be(language: str):
    with pytest.raises(InvalidVoiceError, match="language"):
        checked_language(language)


def test_tags_are_kept_once_in_their_order():
    assert checked_tags((" b ", "a", "b", "", "two  words")) == ("b", "a", "two words")


def test_notes_are_one_line_without_control_characters():
    assert checked_note("a\nb\x00c\ud800 ", "consent") == "a b c"


def test_transcripts_are_tidied_and_bounded():
    assert checked_transcript("  Hello\u200b   there. ", 50) == "Hello there."
    with pytest.raises(InvalidVoiceError, match="transcript"):
        checked_transcript("x" * 51, 50)


def test_changes_are_checked_like_new_voices():
    draft = VoiceDraft(name="Ada", tags=("a",))
    assert VoiceChanges(name=" Eve ").apply(draft) == VoiceDraft(name="Eve", tags=("a",))
    with pytest.raises(InvalidVoiceError, match="language"):
        VoiceChanges(language="english").apply(draft)
