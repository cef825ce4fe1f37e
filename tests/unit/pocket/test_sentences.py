"""The composer: reproducible, varied, and never one of the judge's own sentences."""

import re

import pytest

from scripts.pocket.sentences import SentenceComposer, held_out_sentences, normalized
from scripts.pocket.shards import compose_text
from scripts.pocket.words import number_in_words, plural, read_wide_words, with_article

WORDS = ["dog", "dogs", "dog's", "walk", "walked", "walking", "walks", "quick", "quickly", "Ann",
         "Ann's", "carry", "carried", "carrying", "carries"]  # fmt: skip


def composer(seed: int = 1) -> SentenceComposer:
    return SentenceComposer(seed, wide_share=0)


def test_the_same_seed_gives_the_same_sentences():
    first, second = composer(3), composer(3)
    assert [first.sentence() for _ in range(50)] == [second.sentence() for _ in range(50)]


def test_sentences_are_varied_and_finished():
    made = [made_by.sentence() for made_by in [composer()] for _ in range(800)]
    assert len(set(made)) > 600
    assert all(re.search(r"[.?!]\"?$", text) for text in made)
    assert any(text.endswith("?") for text in made)
    assert any(re.search(r"\d", text) for text in made)
    assert max(map(len, made)) <= 220


def test_no_template_slot_is_left_open():
    made = composer(5)
    assert not any(re.search(r"[{}]|  ", made.sentence()) for _ in range(2000))


def test_held_out_sentences_are_never_composed():
    held = held_out_sentences()
    assert len(held) == len(set(held)) >= 200
    made = composer(9)
    made._lists = {**made._lists, "templates": [held[0].rstrip(".")], "short_phrases": [held[1]]}
    spoken = {normalized(made.sentence()) for _ in range(300)}
    assert not spoken & {normalized(text) for text in held}


def test_an_utterance_may_carry_a_marker_or_a_pause():
    made = composer(2)
    texts = [compose_text(made) for _ in range(400)]
    assert any(text.startswith("(whispering) ") for text in texts)
    assert any("... " in text for text in texts)
    assert sum("(" in text for text in texts) < 200


def test_the_part_of_speech_is_read_off_the_inflections(tmp_path):
    (tmp_path / "words").write_text("\n".join(WORDS))
    wide = read_wide_words(tmp_path / "words")
    assert wide.nouns == ("dog",)
    assert wide.verbs == (
        ("carry", "carried", "carrying", "carries", "carried"),
        ("walk", "walked", "walking", "walks", "walked"),
    )
    assert (wide.adjectives, wide.adverbs, wide.names) == (("quick",), ("quickly",), ("Ann",))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (21, "twenty-one"),
        (100, "one hundred"),
        (345, "three hundred and forty-five"),
        (7000, "seven thousand"),
        (1_020_300, "one million twenty thousand three hundred"),
    ],
)
def test_numbers_become_words(number, words):
    assert number_in_words(number) == words


def test_a_number_too_large_is_refused():
    with pytest.raises(ValueError, match="999,999,999"):
        number_in_words(10**12)


def test_plurals_and_articles():
    assert [plural(w) for w in ("box", "city", "man", "day")] == ["boxes", "cities", "men", "days"]
    assert [with_article(w) for w in ("egg", "user", "hour")] == ["an egg", "a user", "an hour"]
