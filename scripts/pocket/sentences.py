"""Compose endless plain English sentences: statements, questions, numbers, dates, lists, names.

Nothing is downloaded. The judge's own sentences (``held_out.txt``) are never produced.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.pocket.words import (
    SYSTEM_WORDS,
    number_in_words,
    plural,
    read_wide_words,
    with_article,
    word_lists,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELD_OUT_FILE = Path(__file__).with_name("held_out.txt")
_MODALS = (
    "will,can,could,should,must,may,might,would,cannot,will not,should not,did not,used to,"
    "wants to,needed to,tried to,has to,ought to"
)
_PLURAL_DETERMINERS = (
    "the,the,these,those,some,many,most,all the,his,her,our,my,their,several,a few,no"
)
_PLURAL_STARTS = frozenset(("you", "we", "they", "i", "these", "those", "some", "many", "most",
                            "all", "several"))  # fmt: skip


def normalized(text: str) -> str:
    """Lower-case words of a text, for comparing sentences."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


@cache
def held_out_sentences() -> tuple[str, ...]:
    """The judge's sentences; training never sees them."""
    return tuple(
        line.strip() for line in HELD_OUT_FILE.read_text(encoding="utf-8").splitlines() if line
    )


class SentenceComposer:
    """Draw sentences from a grammar; the same seed gives the same sentences.

    Args:
        seed: seed of this composer's own generator.
        wide_share: share of content words that come from the system word list, 0 for none.
        words_path: that list.
    """

    def __init__(self, seed: int, wide_share: float = 0.4, words_path: Path = SYSTEM_WORDS) -> None:
        self.random = random.Random(seed)  # noqa: S311 - not a secret
        self._wide_share = wide_share
        self._wide = read_wide_words(words_path) if wide_share > 0 else None
        self._lists = word_lists()
        self._held = {normalized(s) for s in held_out_sentences()}

    def sentence(self) -> str:
        """One sentence with its end mark, never one of the held-out ones."""
        while True:
            text = self._finish(self._draw_kind()())
            if len(text) <= 220 and normalized(text) not in self._held:
                return text

    # --- words ---------------------------------------------------------------------------
    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _any(self, items: Sequence[str] | str) -> str:
        """One of the items; a string is a comma-separated list or the name of a word list."""
        if isinstance(items, str):
            items = self._lists.get(items) or items.split(",")
        return items[int(self.random.random() * len(items))]

    def _is_wide(self, factor: float = 1.0) -> bool:
        return self._wide is not None and self._chance(self._wide_share * factor)

    def _noun(self) -> str:
        if self._wide and self._is_wide():
            return self._any(self._wide.nouns)
        return self._any(self._any("things,things,things,people,animals,places"))

    def _adjective(self) -> str:
        if self._wide and self._is_wide(0.8):
            return self._any(self._wide.adjectives)
        return self._any("adjectives")

    def _adverb(self) -> str:
        if self._wide and self._is_wide(0.8):
            return self._any(self._wide.adverbs)
        return self._any("adverbs")

    def _verb(self) -> Sequence[str]:
        """Base, past, -ing, third person, participle."""
        if self._wide and self._is_wide(0.9):
            return self._wide.verbs[int(self.random.random() * len(self._wide.verbs))]
        return self._any("verbs_transitive").split("/")

    def _intransitive(self) -> Sequence[str]:
        return self._any("verbs_intransitive").split("/")

    def _name(self) -> str:
        if self._wide and self._is_wide(0.5):
            return self._any(self._wide.names)
        name = self._any("names")
        if self._chance(0.2):
            return f"{name} {self._any('surnames')}"
        if self._chance(0.14):
            title = self._any("Mister,Doctor,Captain,Professor,Uncle,Aunt")
            title = self._any("titles") if self._chance(0.5) else title
            return f"{title} {self._any('surnames')}"
        return name

    def _number(self, digits_share: float = 0.12) -> str:
        kind = self.random.random()
        if kind < 0.45:
            n = self.random.randrange(2, 20)
        elif kind < 0.8:
            n = self.random.randrange(20, 100)
        elif kind < 0.93:
            n = self.random.randrange(100, 1000)
        else:
            n = self.random.randrange(1, 40) * self.random.choice((1000, 1000, 1_000_000))
        return str(n) if self._chance(digits_share) else number_in_words(n)

    # --- phrases -------------------------------------------------------------------------
    def _noun_phrase(self, subject: bool = True) -> str:
        kind = self.random.random()
        if kind < 0.08 and subject:
            return self._any("pronouns")
        if kind < 0.17:
            return self._name()
        if kind < 0.22:
            return self._any(("some ", "the ", "")) + self._any("stuff")
        described = self._adjective() + " " if self._chance(0.45) else ""
        if kind < 0.28:
            return f"{self._number()} {described}{plural(self._noun())}"
        if kind < 0.40:
            return f"{self._any(_PLURAL_DETERMINERS)} {described}{plural(self._noun())}"
        if kind < 0.46:
            owned = "'s " + self._noun() if self._chance(0.3) else ""
            return f"{self._any('my,his,her,your,our,their')} {self._any('people')}{owned}"
        if kind < 0.50:
            return f"{self._name()}'s {described}{self._noun()}"
        return self._singular(described + self._noun())

    def _singular(self, noun: str) -> str:
        kind = self.random.random()
        if kind < 0.5:
            phrase = "the " + noun
        elif kind < 0.78:
            phrase = with_article(noun)
        else:
            phrase = f"{self._any('determiners')} {noun}"
        if self._chance(0.12):
            link = self._any("of,from,with,without,for,about")
            phrase += f" {link} {self._noun_phrase(subject=False)}"
        return phrase

    def _place_phrase(self) -> str:
        kind = self.random.random()
        if kind < 0.55:
            described = self._adjective() + " " if self._chance(0.25) else ""
            place = self._any("places") if self._chance(0.7) else self._noun()
            return f"{self._any('prepositions')} the {described}{place}"
        if kind < 0.7:
            return f"{self._any('to,from,in,near')} {self._any('cities')}"
        if kind < 0.85:
            link = self._any("with,without,for,like,against,about,beside")
            return f"{link} {self._noun_phrase(subject=False)}"
        return f"{self._any('on,in,under,behind,over,through,across')} the {self._noun()}"

    # --- clauses -------------------------------------------------------------------------
    def _clause(self) -> str:
        subject = self._noun_phrase()
        words = subject.split()
        many = words[0].lower() in _PLURAL_STARTS or words[-1].endswith("s")
        was = "was" if subject == "I" or not many else "were"
        now = "am" if subject == "I" else "are" if many else "is"
        said = f"{subject} {self._predicate(many, self._any((was, was, now)))}"
        if self._chance(0.22):
            return f"{said} {self._any('times')}"
        return f"{said} {self._place_phrase()}" if self._chance(0.18) else said

    def _predicate(self, many: bool, be: str) -> str:
        verb, what = self._verb(), self._noun_phrase(subject=False)
        adverb = self._adverb() + " " if self._chance(0.12) else ""
        have = "have" if many else "has"
        said = self._any("said,thought,knew,believed,heard,told me,hoped,explained,agreed")
        options: tuple[tuple[float, Callable[[], str]], ...] = (
            (0.26, lambda: f"{adverb}{verb[1]} {what}"),
            (0.10, lambda: f"{adverb}{self._intransitive()[1]} {self._place_phrase()}"),
            (
                0.10,
                lambda: f"{be} {self._any(',very ,too ,quite ,not ,never ')}{self._adjective()}",
            ),
            (0.06, lambda: f"{be} {verb[2]} {what}"),
            (0.05, lambda: f"{be} {self._intransitive()[2]} {self._place_phrase()}"),
            (0.09, lambda: f"{self._any(_MODALS)} {verb[0]} {what}"),
            (0.06, lambda: f"{verb[0] if many else verb[3]} {what}"),
            (0.06, lambda: f"{have} {self._any(',already ,never ,just ')}{verb[4]} {what}"),
            (0.05, lambda: f"{be} {verb[4]} by {what}"),
            (0.05, lambda: f"{be} {self._place_phrase()}"),
            (0.05, lambda: f"{said} that {self._noun_phrase()} {verb[1]} {what}"),
            (0.04, lambda: f"gave {self._noun_phrase(subject=False)} to {what}"),
            (0.03, lambda: f"{self._intransitive()[1]} {self._adverb()}"),
        )
        makers = [maker for _, maker in options]
        return self.random.choices(makers, [weight for weight, _ in options])[0]()

    def _question(self) -> str:
        who, what = self._noun_phrase(), self._noun_phrase(subject=False)
        verb = self._verb()
        kinds = self._any("color,size,time,day,kind of " + self._noun())
        much = "many " + plural(self._noun()) if self._chance(0.6) else "much " + self._any("stuff")
        return self._any(
            (
                f"{self._any('did,will,can,could,should,would')} {who} {verb[0]} {what}?",
                f"{self._any('where,when,why,how')} did {who} {verb[0]} {what}?",
                f"{self._any('is,was')} the {self._noun()} {self._adjective()}?",
                f"{self._any('is,was')} {what} {self._place_phrase()}?",
                f"who {verb[1]} {what}?",
                f"what {kinds} is {what}?",
                f"do you {self._any('know,like,want,remember,see,have,need')} {what}?",
                f"how {much} did {who} {verb[0]}?",
            )
        )

    def _number_sentence(self) -> str:
        hour = self.random.randrange(1, 13)
        minute = self.random.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
        clock = f"{hour}:{minute:02d}" if minute else f"{hour} o'clock"
        if self._chance(0.7):
            spoken = number_in_words(minute) if minute else "o'clock"
            clock = f"{number_in_words(hour)} {spoken}"
        year, date = self._year(), f"{self._any('months')} {self._any('ordinals')}"
        digits = ", ".join(
            number_in_words(self.random.randrange(10)) for _ in range(self.random.randrange(3, 8))
        )
        first, second = (number_in_words(self.random.randrange(1, 30)) for _ in range(2))
        return self._any(
            (
                f"the {self._noun()} costs {self._number()} dollars",
                f"the train leaves at {clock}",
                f"{self._name()} was born in {year}",
                f"it is {self._number()} {self._any('units')} from here to {self._any('cities')}",
                f"the meeting is on {self._any('days')}, {date}",
                f"there are {self._number()} {plural(self._noun())} {self._place_phrase()}",
                f"my number is {digits}",
                f"turn to page {self._number()}",
                f"the {self._any('ordinals')} {self._noun()} is {self._adjective()}",
                f"he is {number_in_words(self.random.randrange(5, 90))} years old",
                f"in {year} {self._clause()}",
                f"the temperature is {self._number()} degrees {self._any('times')}",
                f"{first} plus {second} is more than {self._number()}",
                f"the {self._any('letters')} bought {self._number()} {plural(self._noun())}",
            )
        )

    def _year(self) -> str:
        year = self.random.randrange(1800, 2030)
        if self._chance(0.4):
            return str(year)
        if 2000 <= year < 2010:
            return "two thousand" + (f" and {number_in_words(year % 100)}" if year % 100 else "")
        rest = year % 100
        tail = "hundred" if rest == 0 else ("oh " if rest < 10 else "") + number_in_words(rest)
        return f"{number_in_words(year // 100)} {tail}"

    def _phrase_sentence(self) -> str:
        noun, verb, what = self._noun, self._verb(), self._noun_phrase(subject=False)
        opinion = self._any("I think,I believe,I am sure,I hope,they say,everyone knows,it seems")
        wish = self._any("let us,we had better,you should,I would like to,I want to,we have to")
        than = self._any("bigger,smaller,better,worse,older,faster,slower,stronger,heavier")
        return self._any(
            (
                f"there {self._any('is,was')} {with_article(noun())} {self._place_phrase()}",
                f"please {verb[0]} {what} {self._any('times')}",
                f"don't {verb[0]} {what}",
                f"{wish} {verb[0]} {what}",
                f"we bought {with_article(noun())}, {with_article(noun())}, and "
                f"{with_article(noun())}",
                f"it {self._any('is,was')} {self._adjective()} to {verb[0]} {what}",
                f"the {noun()} is {than} than the {noun()}",
                f"{opinion} {self._clause()}",
                f'"{self._clause()}," said {self._name()}',
            )
        )

    def _template_sentence(self) -> str:
        slots: dict[str, Callable[[], str]] = {
            "pe": lambda: self._any("people"),
            "pes": lambda: plural(self._any("people")),
            "an": lambda: self._any("animals"),
            "ans": lambda: plural(self._any("animals")),
            "no": self._noun,
            "ad": self._adjective,
            "pl": lambda: self._any("places"),
            "na": self._name,
            "ti": lambda: self._any("times"),
            "pp": self._place_phrase,
            "nu": self._number,
            "np": lambda: self._noun_phrase(subject=False),
            "st": lambda: self._any("stuff"),
            "da": lambda: self._any("days"),
            "ci": lambda: self._any("cities"),
            "dp": lambda: self._any("morning,afternoon,evening,night"),
            "vb": lambda: self._verb()[0],
        }
        text = re.sub(
            r"\ba \{(ad|pe|an|no)\}",
            lambda m: with_article(slots[m.group(1)]()),
            self._any("templates"),
        )
        return re.sub(r"\{(\w+)\}", lambda m: slots[m.group(1)](), text)

    def _linked_clauses(self) -> str:
        link = self._any((" ", ", ")) + self._any("conjunctions")
        return f"{self._clause()}{link} {self._clause()}"

    def _word_list(self) -> str:
        words = (
            self._any(self._wide.all)
            if self._wide and self._chance(0.75)
            else self._any(self._any("things,adjectives,people,adverbs,places"))
            for _ in range(self.random.randrange(1, 6))
        )
        return ", ".join(words)

    # --- whole sentences -----------------------------------------------------------------
    def _draw_kind(self) -> Callable[[], str]:
        kinds: tuple[tuple[float, Callable[[], str]], ...] = (
            (0.05, lambda: self._any("short_phrases")),
            (0.21, self._template_sentence),
            (0.25, self._clause),
            (0.12, self._linked_clauses),
            (0.10, self._question),
            (0.09, self._number_sentence),
            (0.10, self._phrase_sentence),
            (0.05, self._word_list),
            (0.03, lambda: f"{self._any('when,while,if')} {self._clause()}, {self._clause()}"),
        )
        return self.random.choices([k for _, k in kinds], [weight for weight, _ in kinds])[0]

    def _finish(self, text: str) -> str:
        text = re.sub(r"\s+", " ", text).strip()
        start = 1 if text[0] == '"' else 0
        text = text[:start] + text[start].upper() + text[start + 1 :]
        text = re.sub(r"\bi\b", "I", text)
        if text[-1] in ".?!":
            return text
        return text + ("." if text[-1] == '"' or self._chance(0.85) else "!")
