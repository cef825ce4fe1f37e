"""The languages that S1 models were trained on, and what their spelling means for cutting text."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from backend.core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "ar": "Arabic",
        "de": "German",
        "en": "English",
        "es": "Spanish",
        "fr": "French",
        "it": "Italian",
        "ja": "Japanese",
        "ko": "Korean",
        "nl": "Dutch",
        "pl": "Polish",
        "pt": "Portuguese",
        "ru": "Russian",
        "zh": "Chinese",
    }
)
"""ISO 639-1 codes and their names."""

# fmt: off
_ABBREVIATIONS: Mapping[str, frozenset[str]] = MappingProxyType({
    "de": frozenset((
        "abs", "aufl", "bd", "bspw", "bzw", "ca", "co", "dr", "etc", "ev", "evtl", "fr", "ggf",
        "hr", "hrsg", "inkl", "jh", "max", "min", "mio", "mrd", "nr", "prof", "sog", "st", "str",
        "tel", "usw", "vgl", "zb", "zt",
    )),
    "en": frozenset((
        "adj", "adm", "al", "approx", "capt", "cf", "chap", "co", "col", "corp", "dept", "dr",
        "ed", "eds", "eg", "esp", "est", "etc", "excl", "fig", "figs", "gen", "gov", "hon", "ie",
        "inc", "incl", "jr", "lt", "ltd", "maj", "max", "messrs", "min", "mr", "mrs", "ms", "mt",
        "no", "nos", "pp", "prof", "pvt", "ref", "rep", "rev", "sen", "sgt", "sr", "st", "viz",
        "vol", "vols", "vs",
    )),
    "es": frozenset((
        "art", "av", "avda", "dr", "dra", "etc", "lic", "pag", "prof", "sr", "sra", "sres", "srta",
        "sto", "tel", "ud", "uds", "vol",
    )),
    "fr": frozenset((
        "art", "av", "bd", "cf", "chap", "dr", "env", "etc", "ex", "me", "mgr", "mlle", "mm",
        "mme", "mmes", "pp", "st", "ste", "tel", "vol",
    )),
    "it": frozenset((
        "art", "avv", "cap", "dott", "dr", "dssa", "ecc", "fig", "geom", "ing", "on", "pag",
        "prof", "rag", "sig", "sigg", "sigra", "sra", "tel", "vol",
    )),
    "nl": frozenset((
        "bijv", "blz", "bv", "ca", "dhr", "dr", "drs", "dwz", "enz", "etc", "evt", "hr", "incl",
        "ing", "ir", "mevr", "mr", "mw", "nl", "nr", "prof", "resp", "st", "tel", "vgl",
    )),
    "pl": frozenset((
        "al", "dr", "godz", "hab", "im", "inż", "itd", "itp", "lek", "mgr", "mln", "mld", "np",
        "nr", "ok", "os", "pkt", "pl", "pn", "por", "prof", "red", "ul", "św", "tel", "tzn", "tzw",
        "wg", "zob",
    )),
    "pt": frozenset((
        "art", "av", "cap", "dr", "dra", "etc", "ex", "exa", "exmo", "pag", "prof", "profa", "sr",
        "sra", "srta", "sto", "tel", "vol",
    )),
    "ru": frozenset((
        "вв", "гг", "гл", "др", "им", "коп", "млн", "млрд", "напр", "обл", "пр",  # noqa: RUF001
        "проф", "руб", "св", "см", "ср", "стр", "тел", "тыс", "ул",  # noqa: RUF001
    )),
})
# fmt: on
"""Words that end in a full stop without ending a sentence, compared without inner stops. The
languages that are missing do not shorten words with a stop."""


def checked_language(code: str | None) -> str | None:
    """Give the code in lower case, or None as it is.

    Raises:
        InvalidInputError: It is none of ``LANGUAGES``; the message lists them.
    """
    if code is None:
        return None
    plain = code.strip().lower()
    if plain not in LANGUAGES:
        offered = ", ".join(f"{known} ({name})" for known, name in LANGUAGES.items())
        raise InvalidInputError(
            f"language {code[:40]!r} is not one of the languages the models know: {offered}; "
            "leave it out to let the text say"
        )
    return plain


def abbreviations_of(language: str) -> frozenset[str]:
    """Give the words of one language after which a full stop does not end the sentence."""
    return _ABBREVIATIONS.get(language, frozenset())
