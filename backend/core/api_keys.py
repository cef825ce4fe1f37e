"""API keys as the process keeps them: SHA-256 digests, never the keys themselves."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "sha256:"
MIN_KEY_CHARS = 8

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
"""What a header can carry and a list separated by commas can hold."""


def hash_key(key: bytes) -> str:
    """Give ``sha256:`` and 64 hex digits.

    A plain digest is enough for keys that a machine drew: no dictionary holds 128 random bits.
    """
    return PREFIX + hashlib.sha256(key).hexdigest()


def hash_keys(entries: Iterable[object]) -> tuple[str, ...]:
    """Hash the entries of ``API_KEYS`` that are not hashed yet; drop repeated ones.

    Raises:
        ValueError: An entry is neither a usable key nor a digest. The message does not quote it.
    """
    digests = [_digest_of(entry, number) for number, entry in enumerate(entries, start=1)]
    return tuple(dict.fromkeys(digests))


def find_key(offered: Iterable[bytes], digests: Iterable[str]) -> str | None:
    """Give the digest that one of the offered keys has, or None.

    Every pair is compared, each in constant time, so the time taken tells nothing about the keys.
    """
    known = tuple(digests)
    found: str | None = None
    for key in offered:
        digest = hash_key(key)
        for candidate in known:
            if hmac.compare_digest(digest, candidate):
                found = candidate
    return found


def _digest_of(entry: object, number: int) -> str:
    if not isinstance(entry, str):
        raise ValueError(f"entry {number} is not text")  # noqa: TRY004 - pydantic reads ValueError
    if entry.startswith(PREFIX):
        digest = entry.removeprefix(PREFIX)
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"entry {number} has no 64 hex digits behind {PREFIX}")
        return PREFIX + digest.lower()
    if len(entry) < MIN_KEY_CHARS or not _KEY.fullmatch(entry):
        raise ValueError(
            f"entry {number} is no usable key: {MIN_KEY_CHARS} or more letters, digits and signs "
            "without spaces and commas; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return hash_key(entry.encode())
