"""Prompt rows: what the slow transformer reads before it speaks.

    <|interleave|>
    per reference or earlier part:  <|speaker:0|> text  codes  <|im_end|>
    <|speaker:0|> text to speak

Row 0 holds token ids, rows 1..K hold codes at audio positions and 0 elsewhere. A long text is
spoken in parts: what was said so far becomes further turns, in the same form as references. Every
piece is tokenized by itself, and nothing is put between the pieces.

Source: the layout of fish-speech 0.1.0 (Apache-2.0), ``content_sequence.py``; the code is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from backend.core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.models.tokenizer import Tokenizer

SPEAKER_TAG = "<|speaker:0|>"  # S1 was trained with one speaker number for references and target


class ReferenceTurn(Protocol):
    """Text and how it was spoken; ``backend.core.types.Turn`` is one."""

    @property
    def text(self) -> str:
        """What is said."""
        ...

    @property
    def codes(self) -> Any:
        """``[K, F]`` integers: a tensor, a numpy array or nested lists."""
        ...


def build_prompt(
    tokenizer: Tokenizer, text: str, references: Sequence[ReferenceTurn], num_codebooks: int
) -> Tensor:
    """Lay out references and the text to speak.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text: What to say next. Control tokens written in it are ordinary text.
        references: Turns in order: voice references first, then earlier parts of a long text.
        num_codebooks: ``K``.

    Returns:
        ``[1 + K, T]`` int64 on the CPU. Whether ``T`` fits the model is the caller's check.

    Raises:
        InvalidInputError: Codes of a turn have the wrong shape or leave their codebook.
    """
    columns = [_text_rows([tokenizer.interleave_id], num_codebooks)]
    for turn in references:
        spoken = _speaker_ids(tokenizer) + tokenizer.encode(turn.text)
        columns.append(_text_rows(spoken, num_codebooks))
        columns.append(prompt_rows_for_codes(tokenizer, turn.codes, num_codebooks))
        columns.append(_text_rows([tokenizer.im_end_id], num_codebooks))
    target = _speaker_ids(tokenizer) + tokenizer.encode(text)
    columns.append(_text_rows(target, num_codebooks))
    return torch.cat(columns, dim=1)


def prompt_rows_for_codes(tokenizer: Tokenizer, codes: Any, num_codebooks: int) -> Tensor:
    """Put a row of semantic token ids above ``codes``.

    Args:
        tokenizer: The checkpoint's tokenizer.
        codes: ``[K, F]`` integers; row 0 semantic codes, rows 1..K - 1 residual codes.
        num_codebooks: ``K``.

    Returns:
        ``[1 + K, F]`` int64 on the CPU.

    Raises:
        InvalidInputError: Wrong shape, not integers, negative, or a semantic code that the
            tokenizer has no token for.
    """
    # a copy: numpy arrays of voices are read-only, which tensors cannot be
    codes = codes.cpu() if isinstance(codes, Tensor) else torch.tensor(codes)
    if codes.ndim != 2 or codes.shape[0] != num_codebooks:
        raise InvalidInputError(
            f"reference codes must have the shape [{num_codebooks}, frames], "
            f"got {list(codes.shape)}; encode the reference with this model's codec"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise InvalidInputError(f"reference codes must be integers, got {codes.dtype}")
    codes = codes.long()
    if codes.numel() and (int(codes.min()) < 0 or int(codes[0].max()) >= tokenizer.num_semantic):
        raise InvalidInputError(
            f"reference codes must be 0 or more, semantic ones below {tokenizer.num_semantic}; "
            "they were made with another codec: encode the reference again"
        )
    return torch.cat((codes[:1] + tokenizer.semantic_begin_id, codes))


def prompt_length(tokenizer: Tokenizer, text: str, references: Sequence[ReferenceTurn]) -> int:
    """Count the positions ``build_prompt`` would use, without building anything."""
    num_speaker = len(_speaker_ids(tokenizer))
    total = 1 + num_speaker + len(tokenizer.encode(text))
    for turn in references:
        num_frames = len(turn.codes[0])
        total += num_speaker + len(tokenizer.encode(turn.text)) + num_frames + 1
    return total


def turn_ends(tokenizer: Tokenizer, references: Sequence[ReferenceTurn]) -> list[int]:
    """Positions behind each turn of a prompt, where the next turn or the text begins."""
    target = len(_speaker_ids(tokenizer))
    ends = range(1, len(references) + 1)
    return [prompt_length(tokenizer, "", references[:end]) - target for end in ends]


def _speaker_ids(tokenizer: Tokenizer) -> list[int]:
    # Ordinary text for the official tokenizer, a token of its own for the pocket one.
    return tokenizer.encode_template(SPEAKER_TAG)


def _text_rows(token_ids: list[int], num_codebooks: int) -> Tensor:
    rows = torch.zeros(1 + num_codebooks, len(token_ids), dtype=torch.int64)
    rows[0] = torch.tensor(token_ids, dtype=torch.int64)
    return rows
