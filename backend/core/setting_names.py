"""Names of settings: which a file holds, which are meant to be one and are not, whose is wrong."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from backend.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from pydantic import ValidationError


def keys_of(env_file: Path) -> list[str]:
    """Keys of a file of ``KEY=value`` lines, in upper case.

    Raises:
        SettingsError: A line is nothing of the kind.
    """
    lines = (line.strip() for line in env_file.read_text(encoding="utf-8-sig").splitlines())
    pairs = [line.removeprefix("export ") for line in lines if line and not line.startswith("#")]
    for pair in pairs:
        if "=" not in pair:
            raise SettingsError(f"{env_file}: the line {pair!r} is not KEY=value")
    return [pair.split("=", 1)[0].strip().upper() for pair in pairs]


def refuse_unknown(
    keys: Iterable[str], known: Collection[str], foreign: Collection[str], where: str
) -> None:
    """Refuse keys that are neither settings nor another program's.

    Raises:
        SettingsError: There is one; the message names it and what was meant.
    """
    for key in keys:
        if key not in known and key not in foreign:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; see .env.example for all settings"
            raise SettingsError(f"unknown setting {key} in {where}{hint}")


def refuse_near_misses(environment: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that differ from a setting by a slip of the pen.

    Short names (HOST, PORT, MODEL) resemble too much that belongs to others.

    Raises:
        SettingsError: There is one.
    """
    known = [key for key in known if len(key) >= 10]
    for name in environment:
        key = name.upper()
        if len(key) >= 10 and key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
            if close:
                raise SettingsError(
                    f"unknown setting {key} in the environment; did you mean {close[0]}?"
                )


def explained(error: ValidationError, secret: Collection[str]) -> str:
    """Say which settings are malformed and how; values of ``secret`` ones are not quoted."""
    parts: list[str] = []
    for item in error.errors(include_url=False, include_context=False, include_input=True):
        name = str(item["loc"][0]).upper() if item["loc"] else "settings"
        value = "" if name in secret else f"={item.get('input')!r}"
        parts.append(f"{name}{value}: {item['msg']}")
    return "malformed setting: " + "; ".join(parts)
