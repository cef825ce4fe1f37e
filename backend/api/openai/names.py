"""Names that OpenAI's clients send, and what they mean here."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from backend.api.context import ApiContext
from backend.core.errors import ModelNotFoundError, VoiceNotFoundError
from backend.service.voices import MAX_NAMES_LISTED, Voice, VoiceLibrary

DEFAULT_VOICE = "default"
ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class ChosenVoice:
    """What a ``voice`` comes down to.

    Attributes:
        voice: Id of one in the library; None for the default voice, or one drawn by the seed.
        seed: Fixes the voice where one is drawn, so that an alias always sounds alike.
        warning: What the client should know about the choice.
    """

    voice: str | None
    seed: int | None = None
    warning: str | None = None


def choose_voice(
    asked: str | None, library: VoiceLibrary, aliases: Mapping[str, str]
) -> ChosenVoice:
    """Find the voice that a client means. The same name always gives the same voice.

    Args:
        asked: As it was sent.
        library: All voices.
        aliases: From OpenAI's names (in lower case) to the library's.

    Raises:
        VoiceNotFoundError: Neither a voice nor an alias; the message lists both.
    """
    wanted = (asked or DEFAULT_VOICE).strip()
    found = _find(wanted, library)
    if found is not None:
        return ChosenVoice(found.id)
    if wanted.casefold() == DEFAULT_VOICE:
        return ChosenVoice(None)
    target = aliases.get(wanted.casefold())
    if target is None:
        known = [voice.name for voice in library.voices[:MAX_NAMES_LISTED]]
        raise VoiceNotFoundError(
            f"there is no voice {wanted[:64]!r}; known voices: {', '.join(known) or 'none'}; "
            f"OpenAI's names that are understood: {', '.join(aliases) or 'none'}"
        )
    found = _find(target, library)
    if found is not None:
        return ChosenVoice(found.id)
    return _stand_in(wanted, target, library, aliases)


def _stand_in(
    alias: str, target: str, library: VoiceLibrary, aliases: Mapping[str, str]
) -> ChosenVoice:
    """Give an alias whose voice is not there a voice of its own among those that are."""
    why = f"{alias!a} stands for the voice {target!a}, which is not here"
    able = [voice for voice in library.voices if not voice.problem]
    if not able:
        return ChosenVoice(
            None,
            seed=zlib.crc32(alias.casefold().encode()),
            warning=f"{why}, nor is any other; a fixed seed drew this voice. Add voices with "
            "POST /v1/audio/voices and set OPENAI_VOICE_ALIASES",
        )
    voice = able[sorted(aliases).index(alias.casefold()) % len(able)]
    warning = f"{why}; {voice.name!a} speaks instead. Set OPENAI_VOICE_ALIASES to choose"
    return ChosenVoice(voice.id, warning=warning)


def _find(name: str, library: VoiceLibrary) -> Voice | None:
    try:
        return library.find(name)
    except VoiceNotFoundError:
        return None


def voice_aliases(context: ApiContext) -> dict[str, str]:
    """Read the setting: from OpenAI's names in lower case to the library's."""
    pairs = (pair.partition("=") for pair in context.settings.openai_voice_aliases)
    return {alias.strip().casefold(): voice.strip() for alias, _, voice in pairs}


def model_name(context: ApiContext) -> str:
    """Give the loaded model's name; of a directory the last part, because paths are private."""
    info = context.service.info
    return PurePath(context.settings.model if info is None else info.model).name


def model_names(context: ApiContext) -> list[str]:
    """Give all names that mean the loaded model, its own first."""
    aliases = [name for name in context.settings.openai_model_aliases if name != ANY_MODEL]
    return list(dict.fromkeys([model_name(context), *aliases]))


def require_model(asked: str, context: ApiContext) -> None:
    """Refuse a name that means no model here.

    Raises:
        ModelNotFoundError: The message lists the known ones.
    """
    names = model_names(context)
    if asked not in names and ANY_MODEL not in context.settings.openai_model_aliases:
        raise ModelNotFoundError(
            f"there is no model {asked[:64]!r} here; known models: {', '.join(names)}; the "
            "setting OPENAI_MODEL_ALIASES adds names"
        )
