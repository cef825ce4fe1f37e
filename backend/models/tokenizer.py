"""Text to token ids, with the checkpoint's own merge table and special tokens.

Two doors: ``encode`` for what a user wrote, where ``<|im_end|>`` is ordinary text, and
``encode_template`` for what this project wrote, where it is one control token.

Source: the split pattern and id rule of fish-speech 0.1.0 (Apache-2.0), ``tokenizer.py``; the code
is our own. Differs on purpose: users cannot write control tokens, and endless runs are cut.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import tiktoken

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RANKS_FILE = "tokenizer.tiktoken"
SPECIAL_TOKENS_FILE = "special_tokens.json"

# The checkpoint was trained with exactly this pattern. The next to last alternative looks like a
# misspelt lookahead; it takes white space before a literal "?!" and must stay as it is.
SPLIT_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"\p{P}",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(\?!\S)",
        r"\s+",
    )
)

MAX_PIECE_CHARS = 400_000  # the official cut
MAX_RUN_CHARS = 4_096
"""Longest run of letters, of symbols or of white space that is tokenized in one go. tiktoken
before 0.13 takes quadratic time over a run: 93 s for 400,000 times "a", 7 ms for 4,096. Texts
meant to be spoken have no such runs, so the cut changes none of their tokens."""

MAX_KNOWN_TEXTS, MAX_KNOWN_CHARS = 256, 2_000
"""Texts whose ids are kept, and the longest of them: at most about 10 MB."""

_LONG_RUN = re.compile(
    # White space, letters, symbols, as far apart as the split pattern can keep them. Python counts
    # \x1c..\x1f as white space and "_" as a letter; the pattern takes both for symbols.
    rf"[^\S\x1c-\x1f]{{{MAX_RUN_CHARS}}}"
    rf"|[^\W_]{{{MAX_RUN_CHARS}}}"
    rf"|(?:[^\w\s]|[_\x1c-\x1f]){{{MAX_RUN_CHARS}}}"
)
_SEMANTIC = re.compile(r"<\|semantic:(\d+)\|>")


class Tokenizer:
    """Byte-pair encoding plus control tokens. Any thread may use it.

    Args:
        ranks: Byte strings and their merge ranks, which are their ids.
        special_tokens: Control tokens in order; the first has the id ``len(ranks)``.

    Raises:
        CheckpointError: A token this project needs is missing, or the semantic tokens are not one
            unbroken range.
    """

    def __init__(self, ranks: Mapping[bytes, int], special_tokens: list[str]) -> None:
        special_ids = {token: len(ranks) + index for index, token in enumerate(special_tokens)}
        self._encoding = tiktoken.Encoding(
            name="fish-speech",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=dict(ranks),
            special_tokens=special_ids,
        )
        self._special_ids = special_ids
        self._semantic_begin_id, self._num_semantic = _semantic_range(special_ids)
        self._im_end_id = self._required_id("<|im_end|>")
        self._interleave_id = self._required_id("<|interleave|>")
        # the texts of voices come with every request
        self._known_ids = lru_cache(MAX_KNOWN_TEXTS)(self._ids)
        # half a millisecond each time: all control tokens are handed over
        self._known_template_ids = lru_cache(MAX_KNOWN_TEXTS)(self._template_ids)

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Read ``tokenizer.tiktoken`` and ``special_tokens.json``.

        The numbers inside ``special_tokens.json`` are not used: as in the official package, a
        control token's id follows from its place in the file.

        Raises:
            CheckpointError: A file is missing or malformed.
        """
        return cls(
            read_ranks(directory / RANKS_FILE),
            read_special_tokens(directory / SPECIAL_TOKENS_FILE),
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids that mean something: merge ranks and control tokens."""
        return self._encoding.n_vocab

    @property
    def semantic_begin_id(self) -> int:
        """Id of semantic code 0."""
        return self._semantic_begin_id

    @property
    def semantic_end_id(self) -> int:
        """Id of the last semantic code (inclusive)."""
        return self._semantic_begin_id + self._num_semantic - 1

    @property
    def num_semantic(self) -> int:
        """Number of semantic codes."""
        return self._num_semantic

    @property
    def im_end_id(self) -> int:
        """Id of the token that ends a turn; the model writes it when it is done."""
        return self._im_end_id

    @property
    def interleave_id(self) -> int:
        """Id of the token that opens every prompt."""
        return self._interleave_id

    def encode(self, text: str) -> list[int]:
        """Tokenize what a user wrote; control tokens in it are ordinary characters."""
        return list(self._known_ids(text) if len(text) <= MAX_KNOWN_CHARS else self._ids(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(
            token_id
            for piece in _pieces(text)
            for token_id in self._encoding.encode_ordinary(piece)
        )

    def encode_template(self, text: str) -> list[int]:
        """Tokenize text of this project, where control tokens count as such."""
        return list(self._known_template_ids(text))

    def _template_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._encoding.encode(text, allowed_special="all"))

    def _required_id(self, token: str) -> int:
        if token not in self._special_ids:
            raise CheckpointError(f"{SPECIAL_TOKENS_FILE}: {token} is missing")
        return self._special_ids[token]


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a merge table: one ``base64 rank`` pair per line.

    tiktoken's own reader keeps copies of local files by path and would return a stale table.

    Raises:
        CheckpointError: The file is missing, malformed or has gaps; the message names the line.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0] == "=":  # "=" stands for the empty string, which is no token
            continue
        try:
            token, rank = parts
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"{path}, line {number}: not a base64 token and its rank"
            ) from error
    missing_bytes = [value for value in range(256) if bytes([value]) not in ranks]
    if missing_bytes:
        raise CheckpointError(
            f"{path}: byte {missing_bytes[0]} has no rank; the file is incomplete"
        )
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(f"{path}: ranks must be 0..{len(ranks) - 1}, each once")
    return ranks


def read_special_tokens(path: Path) -> list[str]:
    """Read the control tokens in file order.

    Raises:
        CheckpointError: The file is missing or not a JSON object of tokens.
    """
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: must hold a JSON object of control tokens")
    return list(content)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a text file ({error})") from error


def _semantic_range(special_ids: Mapping[str, int]) -> tuple[int, int]:
    """First id and number of the semantic tokens, which must be one unbroken range."""
    ids_by_code = {
        int(match[1]): token_id
        for token, token_id in special_ids.items()
        if (match := _SEMANTIC.fullmatch(token))
    }
    begin_id = ids_by_code.get(0)
    if begin_id is None:
        raise CheckpointError(f"{SPECIAL_TOKENS_FILE}: <|semantic:0|> is missing")
    if any(ids_by_code.get(code) != begin_id + code for code in range(len(ids_by_code))):
        raise CheckpointError(
            f"{SPECIAL_TOKENS_FILE}: semantic tokens must stand together, from <|semantic:0|> up"
        )
    return begin_id, len(ids_by_code)


def _pieces(text: str) -> Iterator[str]:
    """Cut ``text`` into pieces that tokenize in bounded time."""
    for start in range(0, len(text), MAX_PIECE_CHARS):
        piece = text[start : start + MAX_PIECE_CHARS]
        begin = 0
        for run in _LONG_RUN.finditer(piece):
            yield piece[begin : run.end()]
            begin = run.end()
        if begin < len(piece):
            yield piece[begin:]
