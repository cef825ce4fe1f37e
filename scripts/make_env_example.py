"""Write ``.env.example`` from the settings classes, or check that it is up to date.

    python scripts/make_env_example.py            # writes the file
    python scripts/make_env_example.py --check    # exit code 1 when the file is out of date

Every setting appears with its documentation, its range and its default, commented out: a copy of
the file named ``.env`` changes nothing until a line is uncommented.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pydantic_core import PydanticUndefined  # noqa: E402

from backend.core.cluster_settings import ClusterSettings  # noqa: E402
from backend.core.settings import Settings  # noqa: E402
from ui.settings import UiSettings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

PATH = ROOT / ".env.example"
WIDTH = 92

HEAD = """\
Settings of the service and of the web pages.

Copy this file to .env and uncomment what you want to change. Each line shows the default. What
stands in the environment wins over the file. A key that is not listed here, or a value outside
its range, stops the start with a message that names it.
"""
SECTIONS: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("The service", Settings),
    ("The web pages", UiSettings),
    ("The cluster: several copies of the engine (start.py --cluster)", ClusterSettings),
)
_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def render() -> str:
    """Give the text of ``.env.example``."""
    lines = [*_comment(HEAD), ""]
    for title, settings in SECTIONS:
        lines += [f"# ---- {title} {'-' * (WIDTH - len(title) - 8)}", ""]
        for name, field in settings.model_fields.items():
            lines += [*_setting(settings, name, field), ""]
    return "\n".join(lines)


def key_of(settings: type[BaseSettings], name: str) -> str:
    """Give the environment key of a field."""
    return (settings.model_config.get("env_prefix", "") + name).upper()


def _setting(settings: type[BaseSettings], name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment((field.description or "").replace("`", ""))
    allowed = _allowed(field)
    if allowed:
        yield from _comment(f"Allowed: {allowed}.")
    yield f"#{key_of(settings, name)}={_written(field.default)}"


def _comment(text: str) -> Iterator[str]:
    for idx, paragraph in enumerate(text.strip().split("\n\n")):
        if idx > 0:
            yield "#"
        for line in textwrap.wrap(" ".join(paragraph.split()), WIDTH, break_long_words=False):
            yield f"# {line}"


def _allowed(field: FieldInfo) -> str:
    """Say in words what values a field takes, or nothing when any text will do."""
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(value) for value in get_args(field.annotation))
    bounds = [
        words.format(getattr(rule, attribute))
        for rule in field.metadata
        for attribute, words in _BOUNDS.items()
        if getattr(rule, attribute, None) is not None
    ]
    if len(bounds) == 2 and bounds[0].startswith("at least") and bounds[1].startswith("at most"):
        return f"{bounds[0].removeprefix('at least ')} to {bounds[1].removeprefix('at most ')}"
    return ", ".join(bounds)


def _written(default: Any) -> str:
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default)
    return default.as_posix() if isinstance(default, Path) else str(default)


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description="Write .env.example from the settings classes.")
    parser.add_argument("--check", action="store_true", help="only tell whether it is up to date")
    text = render()
    if not parser.parse_args().check:
        PATH.write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {PATH.name}")
        return 0
    if PATH.is_file() and PATH.read_text(encoding="utf-8") == text:
        print(f"{PATH.name} is up to date")
        return 0
    print(f"{PATH.name} is out of date; run: python scripts/make_env_example.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
