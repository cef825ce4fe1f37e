"""The words that sentences are made of.

``words.txt`` beside this file holds the common words and the sentence patterns. A system word list
(Debian's ``wamerican-small``) widens the vocabulary where it is given; the part of speech of its
words is guessed from the inflections that the list itself holds: dog, dogs and dog's make a noun,
walk, walked and walking a verb, quick and quickly an adjective.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORDS_FILE = Path(__file__).with_name("words.txt")
SYSTEM_WORDS = Path("/usr/share/dict/american-english-small")

# Word stems that nobody wants a demo voice to have learned.
_UNWANTED = re.compile(
    r"(fuck|shit|cunt|nigg|fag|whore|slut|bitch|rape|raping|rapist|porn|penis|vagin|dildo|orgas"
    r"|masturb|sperm|semen|ejacul|bastard|piss|crap|tit|testic|erotic|incest|pedoph|nazi|coon"
    r"|wetback|gook|kike|spic|dyke|retard|suicid|genocid)"
)


@cache
def word_lists() -> dict[str, list[str]]:
    """Read ``words.txt``: section name -> entries, in file order."""
    lists: dict[str, list[str]] = {}
    name, kind = "", ""
    for line in WORDS_FILE.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        header = re.fullmatch(r"\[(\w+)([|/]?)\]", line)
        if header:
            name, kind = header.groups()
            lists[name] = []
        elif kind == "/":
            lists[name].append(line)
        elif kind == "|":
            lists[name] += [part.strip() for part in line.split("|") if part.strip()]
        else:
            lists[name] += line.split()
    return lists


@dataclass(frozen=True)
class WideWords:
    """Words of the system list by guessed part of speech; verbs are five forms each."""

    nouns: tuple[str, ...]
    verbs: tuple[tuple[str, str, str, str, str], ...]
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    names: tuple[str, ...]
    all: tuple[str, ...]


def read_wide_words(path: Path) -> WideWords:
    """Read a system word list and sort its words into parts of speech.

    Raises:
        FileNotFoundError: the list is not there; it is Debian's package ``wamerican-small``.
    """
    entries = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    low = {w for w in entries if re.fullmatch(r"[a-z]{3,14}", w) and not _UNWANTED.match(w)}
    nouns = (w for w in low if w + "'s" in entries and w + "s" in low)
    adjectives = (
        w
        for w in low
        if not w.endswith("ed")
        and (
            w + "ly" in low
            or (w.endswith("y") and w[:-1] + "ily" in low)
            or (w.endswith("le") and w[:-1] + "y" in low)
        )
    )
    names = (w for w in entries if re.fullmatch(r"[A-Z][a-z]{2,10}", w) and w + "'s" in entries)
    return WideWords(
        nouns=tuple(sorted(w for w in nouns if not w.endswith(("ing", "s")))),
        verbs=tuple(forms for w in sorted(low) if (forms := _verb_forms(w, low))),
        adjectives=tuple(sorted(adjectives)),
        adverbs=tuple(
            sorted(w for w in low if w.endswith("ly") and (w[:-2] in low or w[:-3] + "y" in low))
        ),
        names=tuple(sorted(w for w in names if not _UNWANTED.match(w.lower()))),
        all=tuple(sorted(low)),
    )


def _verb_forms(w: str, low: set[str]) -> tuple[str, str, str, str, str] | None:
    doubled = w + w[-1]
    for past, ing in (
        (w + "ed", w + "ing"),
        (w + "d", w[:-1] + "ing"),
        (w[:-1] + "ied", w + "ing"),
        (doubled + "ed", doubled + "ing"),
    ):
        if past not in low or ing not in low or (past == w + "d" and not w.endswith("e")):
            continue
        plain = w + "es" if w + "es" in low else w + "s"
        third = w[:-1] + "ies" if past.endswith("ied") else plain
        return (w, past, ing, third, past) if third in low else None
    return None


_IRREGULAR_PLURALS = dict(
    pair.split("/")
    for pair in [
        "man/men",
        "woman/women",
        "child/children",
        "person/people",
        "mouse/mice",
        "goose/geese",
        "sheep/sheep",
        "fish/fish",
        "deer/deer",
        "wolf/wolves",
        "wife/wives",
        "knife/knives",
        "leaf/leaves",
        "thief/thieves",
        "calf/calves",
        "shelf/shelves",
        "policeman/policemen",
        "fireman/firemen",
        "fisherman/fishermen",
        "chairman/chairmen",
        "gentleman/gentlemen",
        "grass/grass",
        "half/halves",
        "loaf/loaves",
    ]
)


def plural(noun: str) -> str:
    """Plural of an English noun."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(phrase: str) -> str:
    """``a`` or ``an`` before a phrase."""
    vowel = phrase[0] in "aeiou" and not re.match(r"(uni|use|eu|one|ew|ut[ie])", phrase)
    return ("an " if vowel or re.match(r"(hour|honest|heir|honor)", phrase) else "a ") + phrase


_ONES = (
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_in_words(n: int) -> str:
    """A whole number from 0 to 999,999,999 in English words."""
    if not 0 <= n < 1_000_000_000:
        raise ValueError(f"{n} is not between 0 and 999,999,999")
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + ("-" + _ONES[n % 10] if n % 10 else "")
    sizes = ((1_000_000, " million"), (1000, " thousand"), (100, " hundred"))
    size, name = next((size, name) for size, name in sizes if n >= size)
    head, rest = number_in_words(n // size) + name, n % size
    link = " and " if size == 100 else " "
    return head + (link + number_in_words(rest) if rest else "")
