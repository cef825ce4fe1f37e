"""What may be written about a voice: names, languages, tags, notes, transcripts.

A name is never part of a path (recordings are stored by their hash), but people type it into
addresses, headers and file dialogs, so it has no characters that mean something there.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

from backend.core.errors import InvalidVoiceError
from backend.service.text import tidy_text

MAX_NAME_CHARS = 64
MAX_LANGUAGE_CHARS = 16
MAX_TAGS = 16
MAX_TAG_CHARS = 32
MAX_NOTE_CHARS = 1000
MAX_REFERENCES = 8
"""Recordings of one voice."""

_PUNCTUATION = frozenset(" -_.'\u2019()&+,!#@")
_RESERVED = frozenset({"upload", "none"})
"""Taken: ``X-Voice`` says them of speech that no named voice spoke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceDraft:
    """What is said about a voice that is to be added.

    Attributes:
        name: 1 to 64 characters: letters and digits of any script, spaces and ``-_.'()&+,!#@``.
        language: Like ``en`` or ``pt-BR``; empty when nobody says.
        tags: Words to search by.
        consent: Who allowed the use of this voice; kept as it is.
        description: One line for people.
    """

    name: str
    language: str = ""
    tags: tuple[str, ...] = ()
    consent: str = ""
    description: str = ""

    def checked(self) -> VoiceDraft:
        """Give the draft in the form in which it is stored.

        Raises:
            InvalidVoiceError: A field cannot be stored; the message names it.
        """
        return VoiceDraft(
            name=checked_name(self.name),
            language=checked_language(self.language),
            tags=checked_tags(self.tags),
            consent=checked_note(self.consent, "consent"),
            description=checked_note(self.description, "description"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceChanges:
    """What is to be changed; None leaves it as it is. Fields as in ``VoiceDraft``."""

    name: str | None = None
    language: str | None = None
    tags: tuple[str, ...] | None = None
    consent: str | None = None
    description: str | None = None

    def apply(self, draft: VoiceDraft) -> VoiceDraft:
        """Give ``draft`` with the changes, checked.

        Raises:
            InvalidVoiceError: A field cannot be stored.
        """
        fields = ("name", "language", "tags", "consent", "description")
        wanted = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return replace(draft, **wanted).checked()


def voice_key(name: str) -> str:
    """Give the form in which names are compared: neither case nor Unicode spelling matters."""
    folded = unicodedata.normalize("NFKC", name.strip()).casefold()
    return unicodedata.normalize("NFKC", folded)


def checked_name(name: str) -> str:
    """Give a name in the form in which it is stored.

    Raises:
        InvalidVoiceError: It is empty, too long, reserved or has a character it cannot have.
    """
    cleaned = unicodedata.normalize("NFC", name).strip(" ")
    if not cleaned:
        raise InvalidVoiceError("name: the voice needs a name of 1 to 64 characters")
    if len(cleaned) > MAX_NAME_CHARS:
        raise InvalidVoiceError(
            f"name: {len(cleaned)} characters; at most {MAX_NAME_CHARS} are accepted"
        )
    wrong = next((char for char in cleaned if not _may_be_in_name(char)), None)
    if wrong is not None:
        raise InvalidVoiceError(
            f"name: the character {wrong!r} cannot be in a name; use letters, digits, spaces and "
            "-_.'()&+,!#@"
        )
    if not any(unicodedata.category(char)[0] in "LN" for char in cleaned):
        raise InvalidVoiceError("name: it needs at least one letter or digit")
    if cleaned.startswith(".") or cleaned.endswith(".") or voice_key(cleaned) in _RESERVED:
        raise InvalidVoiceError(
            f"name: {cleaned!r} cannot be taken; names neither start nor end with a dot, and "
            f"{' and '.join(sorted(_RESERVED))} have a meaning of their own"
        )
    return cleaned


def checked_language(language: str) -> str:
    """Give a language tag in lower case, or an empty one.

    Raises:
        InvalidVoiceError: It does not look like ``en`` or ``pt-BR``.
    """
    cleaned = language.strip().lower().replace("_", "-")
    parts = cleaned.split("-")
    is_tag = all(part.isascii() and part.isalnum() and len(part) <= 8 for part in parts)
    if cleaned and not (is_tag and parts[0].isalpha() and len(parts[0]) in (2, 3)):
        raise InvalidVoiceError(
            f"language: {language[:MAX_LANGUAGE_CHARS]!r} is no language code; send one like en, "
            "de or pt-BR"
        )
    if len(cleaned) > MAX_LANGUAGE_CHARS:
        raise InvalidVoiceError(f"language: at most {MAX_LANGUAGE_CHARS} characters are accepted")
    return cleaned


def checked_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Give tags without empty and repeated ones, in their order.

    Raises:
        InvalidVoiceError: There are too many, or one is too long.
    """
    cleaned = dict.fromkeys(tag for tag in (_one_line(tag) for tag in tags) if tag)
    if len(cleaned) > MAX_TAGS:
        raise InvalidVoiceError(f"tags: {len(cleaned)} tags; at most {MAX_TAGS} are accepted")
    for tag in cleaned:
        if len(tag) > MAX_TAG_CHARS or "," in tag:
            raise InvalidVoiceError(
                f"tags: {tag[:MAX_TAG_CHARS]!r} is not a tag; one has at most {MAX_TAG_CHARS} "
                "characters and no comma"
            )
    return tuple(cleaned)


def checked_note(note: str, field: str) -> str:
    """Give a note as one line.

    Raises:
        InvalidVoiceError: It is too long.
    """
    cleaned = _one_line(note)
    if len(cleaned) > MAX_NOTE_CHARS:
        raise InvalidVoiceError(
            f"{field}: {len(cleaned)} characters; at most {MAX_NOTE_CHARS} are accepted"
        )
    return cleaned


def checked_transcript(text: str, max_chars: int) -> str:
    """Give what is said in a recording, ready for the model.

    Raises:
        InvalidVoiceError: It is longer than a text may be.
    """
    if len(text) > max_chars:
        raise InvalidVoiceError(
            f"transcript: {len(text)} characters; it is what is said in the recording, so at most "
            f"{max_chars} are accepted"
        )
    return tidy_text(text)


def _may_be_in_name(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char)[0] in "LMN"


def _one_line(text: str) -> str:
    """Join lines and drop control characters and halves of surrogate pairs."""
    kept = "".join(char if unicodedata.category(char) not in ("Cc", "Cs") else " " for char in text)
    return " ".join(unicodedata.normalize("NFC", kept).split())
