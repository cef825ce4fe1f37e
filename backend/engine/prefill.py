"""Stage 2a: run a prompt through the slow transformer once.

In:  the prompt's rows.   Out: keys and values of all rows but the last, in the slot's room.
The last row is left to the first decode step, so that every frame is made by the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from backend.core.errors import PromptTooLongError

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.kv_store import SlotKV
    from backend.models.dual_ar import DualAR

RESERVED_FOR_SPEECH = 2048
"""Positions the official package keeps free behind a prompt: 95 s of S1-mini's speech."""


def max_prompt_positions(max_positions: int) -> int:
    """Positions a prompt may take: all but 2,048 as officially, or half where that leaves less."""
    return max_positions - min(RESERVED_FOR_SPEECH, max_positions // 2)


def check_prompt_length(length: int, max_positions: int) -> None:
    """Refuse a prompt that leaves too little room for speech.

    Raises:
        PromptTooLongError: It does.
    """
    limit = max_prompt_positions(max_positions)
    if length > limit:
        raise PromptTooLongError(
            f"the prompt needs {length} positions and at most {limit} are allowed; use a shorter "
            "or fewer reference recordings, a shorter text, or raise MAX_SEQ_LEN"
        )


def prefill_prompt(model: DualAR, rows: Tensor, kv: SlotKV) -> Tensor:
    """Fill an empty slot with a prompt, all but its last row.

    Args:
        model: On the store's device.
        rows: ``[1 + K, T]`` int64, T >= 1.
        kv: Empty.

    Returns:
        ``[1 + K]``, the last row, for the first decode step.

    Raises:
        PromptTooLongError: The prompt leaves too little room for speech.
    """
    check_prompt_length(rows.shape[1], kv.max_positions)
    prefill_rows(model, rows[:, :-1], kv)
    return rows[:, -1]


def prefill_rows(model: DualAR, rows: Tensor, kv: SlotKV) -> None:
    """Run rows ``[1 + K, T]`` behind what ``kv`` holds; T may be 0."""
    length, start = rows.shape[1], kv.length
    if length == 0:
        return
    device = model.embeddings.weight.device
    positions = torch.arange(start, start + length, device=device)
    mask = None
    if start and length > 1:
        mask = torch.arange(start + length, device=device) <= positions[:, None]
        mask = mask[None, None]
    model.slow(rows[None].to(device), positions[None], kv, mask)
    kv.advance(length)
