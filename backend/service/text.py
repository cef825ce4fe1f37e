"""Text on its way in: cleaned, judged, and cut into segments that one pass can speak well.

Lengths are measured in *weight*: about one per Latin letter, three per CJK character, because a
CJK character takes about three times as long to say.
"""

from __future__ import annotations

import re
import unicodedata
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from backend.core.errors import InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

SEGMENT_WEIGHT = 220
"""Most that one segment weighs: about 15 s of speech, well inside what models are trained on."""

WIDE_CHARACTER_WEIGHT = 3

# fmt: off
ABBREVIATIONS = frozenset((
    "adj", "adm", "al", "approx", "art", "aufl", "av", "avda", "bd", "bspw", "bzw", "ca", "capt",
    "cf", "chap", "co", "col", "corp", "d", "dept", "dr", "dra", "dtt", "ed", "eds", "eg", "esp",
    "est", "etc", "ev", "exc", "excl", "fig", "figs", "gen", "gov", "hon", "hr", "hrsg", "ie",
    "inc", "incl", "jr", "lic", "lt", "ltd", "maj", "max", "mgr", "min", "mio", "mlle", "mm", "mme",
    "mons", "mr", "mrd", "mrs", "ms", "msgr", "mt", "no", "nos", "nr", "op", "pag", "pp", "pres",
    "prof", "prov", "pt", "pvt", "ref", "rep", "resp", "rev", "sen", "sgt", "sig", "sog", "sr",
    "sra", "srta", "st", "ste", "str", "tel", "u", "usw", "vgl", "viz", "vol", "vols", "vs", "zb",
))
# fmt: on
"""Words that end in a full stop without ending a sentence; compared without inner stops."""

_REMOVED_FORMAT_CHARACTERS = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff") | frozenset(
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
"""Soft hyphen, zero-width space, direction marks, word joiner, byte order mark."""

_OPENERS = "\"'“‘«‹[{「『【¿¡"  # noqa: RUF001
_CLOSERS = "\"'”’»›)]}」』】）"  # noqa: RUF001
_WIDE_STOPS = "。！？｡"  # noqa: RUF001
_CLOSING = f"[{re.escape(_CLOSERS)}]*"
_STOPS = ".!?…؟۔।"  # noqa: RUF001
# The look-behind keeps a long run of stops from being tried from each of its members.
_SENTENCE_END = re.compile(
    rf"(?<![{_STOPS}])[{_STOPS}]+{_CLOSING}(?=\s|$)|[{_WIDE_STOPS}][{_WIDE_STOPS}…]*{_CLOSING}|\n"
)
_CLAUSE_END = re.compile(rf"[,;:،؛—]{_CLOSING}(?=\s)|[，、；：]|(?<=\s)[-–—](?=\s)")  # noqa: RUF001
_SPACE = re.compile(r"\s")
_PARENTHESES = re.compile(r"\([^()\n]{0,200}\)|（[^（）\n]{0,200}）")  # noqa: RUF001
_LONGEST_PARENTHESIS = 202
_BEFORE_A_WORD = re.compile(
    rf"(?: |[{re.escape(_OPENERS)}]|{_PARENTHESES.pattern}|[(（])*+"  # noqa: RUF001
)
_LONGEST_ABBREVIATION = 16  # characters looked at before a stop
_LAST_WORD = re.compile(r"(?:[^\W_]+\.)*[^\W_]+$")


def clean_text(text: str, max_chars: int, setting: str = "MAX_TEXT_CHARS") -> str:
    """Bring a text into the form that is spoken (see ``tidy_text``), or refuse it.

    Args:
        text: As the client sent it.
        max_chars: Longest text that is accepted, in characters.
        setting: Name of the limit, for people.

    Raises:
        InvalidTextError: Empty, longer than ``max_chars``, or without a letter or a digit.
    """
    if len(text) > max_chars:
        raise InvalidTextError(
            f"the text has {len(text)} characters; the limit is {max_chars}. "
            f"Send it in parts, or raise {setting}"
        )
    cleaned = tidy_text(text)
    if not cleaned:
        raise InvalidTextError("the text is empty; send at least one word")
    if not is_speakable(cleaned):
        raise InvalidTextError(
            "the text holds nothing to speak, only punctuation or symbols; send at least one word"
        )
    return cleaned


def tidy_text(text: str) -> str:
    """Write a text in one way.

    Composed characters (NFC); control and invisible formatting characters removed; runs of white
    space become one space, line breaks one line break. Emotion markers stay as they are.
    """
    visible = "".join(filter(_is_kept, unicodedata.normalize("NFC", text)))
    lines = (" ".join(line.split()) for line in visible.splitlines())
    return "\n".join(line for line in lines if line)


def is_speakable(text: str) -> bool:
    """Tell whether there is a letter or a digit of any script."""
    return any(unicodedata.category(char)[0] in "LN" for char in text)


def text_weight(text: str) -> int:
    """Measure how long a text takes to say, in Latin letters."""
    return sum(map(_char_weight, text))


def split_text(
    text: str,
    max_weight: int = SEGMENT_WEIGHT,
    abbreviations: AbstractSet[str] = ABBREVIATIONS,
) -> list[str]:
    """Cut a cleaned text into segments of whole sentences.

    Sentences that fit together share a segment. A sentence that is too heavy is cut after clauses,
    then between words, then anywhere. Markers in parentheses are never cut and stay with the words
    that follow them.

    Args:
        text: From ``clean_text``.
        max_weight: Most that a segment weighs. Only what must not be cut, a marker with the words
            it belongs to, may exceed it.
        abbreviations: Words after which a full stop does not end the sentence; those of the text's
            language, where that is known.

    Returns:
        One or more segments that together hold every word of ``text`` in order.
    """
    weights = [0, *accumulate(map(_char_weight, text))]
    cutters = (partial(_sentence_ends, abbreviations=abbreviations), *_CUTTERS[1:])
    spans = _cut(text, (0, len(text)), weights, max_weight, cutters)
    whole = _with_words(spans, _words_outside_parentheses(text))
    return [" ".join(text[start:end].split()) for start, end in whole]


def finished_length(text: str, max_weight: int = SEGMENT_WEIGHT) -> int:
    """Tell how much of a text that is still being written can be spoken already.

    That is whole sentences, as soon as something follows them (a stop may turn out to belong to a
    number), or, when a sentence has grown heavier than one segment, its clauses, else words.

    Args:
        text: What has come so far and was not spoken; not cleaned.
        max_weight: Most that a segment weighs.

    Returns:
        The number of characters at the beginning; 0 when nothing is finished.
    """
    last_place = _open_marker(text.rstrip())
    cutters = _CUTTERS if text_weight(text) > max_weight else _CUTTERS[:1]
    for cutter in cutters:
        places = [place for place in cutter(text) if 0 < place < last_place]
        if places:
            return places[-1]
    return 0


def has_words(text: str) -> bool:
    """Tell whether there is anything to say besides what stands in parentheses, as markers do."""
    return is_speakable(_PARENTHESES.sub("", text))


def _open_marker(text: str) -> int:
    """Give the place of a parenthesis at the end that may become a marker; else the end."""
    place = max(text.rfind(char) for char in "(（")  # noqa: RUF001
    is_open = place > max(text.rfind(char) for char in ")）")  # noqa: RUF001
    return place if is_open and len(text) - place <= _LONGEST_PARENTHESIS else len(text)


def _is_kept(char: str) -> bool:
    is_invisible = unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn")
    return char.isspace() or not (is_invisible or char in _REMOVED_FORMAT_CHARACTERS)


def _char_weight(char: str) -> int:
    return WIDE_CHARACTER_WEIGHT if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(
    text: str,
    span: tuple[int, int],
    weights: Sequence[int],
    max_weight: int,
    cutters: Sequence[Callable[[str], Iterable[int]]],
) -> list[tuple[int, int]]:
    """Cut a span where the first cutter says, and what is still too heavy with the next ones.

    Neighbors that fit together stay together, but the parts of a heavy sentence keep to themselves.
    """
    start, end = span
    places = [start + place for place in cutters[0](text[start:end]) if 0 < place < end - start]
    spans: list[tuple[int, int]] = []
    may_grow = False
    for left, right in zip([start, *places], [*places, end], strict=True):
        if weights[right] - weights[left] > max_weight and len(cutters) > 1:
            spans += _cut(text, (left, right), weights, max_weight, cutters[1:])
            may_grow = False
        elif may_grow and weights[right] - weights[spans[-1][0]] <= max_weight:
            spans[-1] = (spans[-1][0], right)
        elif text[left:right].strip():
            spans.append((left, right))
            may_grow = True
    return spans


def _with_words(
    spans: Sequence[tuple[int, int]], words_before: Sequence[int]
) -> list[tuple[int, int]]:
    """Join spans that are only markers with the words after them; at the end, before them."""
    joined: list[tuple[int, int]] = []
    start = spans[0][0]
    for _, end in spans:
        if words_before[end] > words_before[start]:
            joined.append((start, end))
            start = end
    last = spans[-1][1]
    if not joined:
        return [(start, last)]
    joined[-1] = (joined[-1][0], last)
    return joined


def _sentence_ends(text: str, abbreviations: AbstractSet[str] = ABBREVIATIONS) -> list[int]:
    protected = _protected_places(text)
    return [
        match.end()
        for match in _SENTENCE_END.finditer(text)
        if match.end() not in protected and not _goes_on(text, match, abbreviations)
    ]


def _goes_on(text: str, match: re.Match[str], abbreviations: AbstractSet[str]) -> bool:
    """Tell whether the stop that was found belongs to a word, or the sentence goes on after it."""
    found = match.group()
    if found == "\n" or found[0] in _WIDE_STOPS:
        return False
    next_word = _BEFORE_A_WORD.match(text, match.end())
    if next_word is not None and text[next_word.end() : next_word.end() + 1].islower():
        return True
    if found[0] != "." or found.startswith(".."):
        return False
    before = text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
    word = _LAST_WORD.search(before)
    return word is not None and _is_abbreviation(word.group(), abbreviations)


def _is_abbreviation(word: str, abbreviations: AbstractSet[str]) -> bool:
    """Tell whether a full stop after ``word`` is part of it: ``Dr``, ``e.g``, ``J``, ``3``."""
    plain = word.replace(".", "").casefold()
    if plain.isdecimal():
        return len(plain) <= 2  # ordinals ("am 3. Mai") and numbered lists
    return plain in abbreviations or (len(plain) == 1 and word != "I")


def _clause_ends(text: str) -> list[int]:
    protected = _protected_places(text)
    return [m.end() for m in _CLAUSE_END.finditer(text) if m.end() not in protected]


def _word_ends(text: str) -> list[int]:
    protected = _protected_places(text)
    return [
        match.end()
        for match in _SPACE.finditer(text)
        if match.end() not in protected and match.start() not in protected
    ]


def _any_place(text: str) -> list[int]:
    protected = _protected_places(text)
    return [
        place
        for place in range(1, len(text))
        if place not in protected and not unicodedata.combining(text[place])
    ]


_CUTTERS = (_sentence_ends, _clause_ends, _word_ends, _any_place)


def _protected_places(text: str) -> set[int]:
    """Give the places inside markers and right after them, where nothing may be cut.

    A marker at the end of its sentence ("Well (laughing).") is followed by a stop, so the place
    after the stop stays free.
    """
    spans = (match.span() for match in _PARENTHESES.finditer(text))
    return {place for start, end in spans for place in range(start + 1, end + 1)}


def _words_outside_parentheses(text: str) -> list[int]:
    """Count the letters and digits outside parentheses before each place of ``text``."""
    bare = _PARENTHESES.sub(lambda match: " " * len(match.group()), text)
    return [0, *accumulate(unicodedata.category(char)[0] in "LN" for char in bare)]
