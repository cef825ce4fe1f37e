"""Stage 2a: run a prompt through the slow transformer once.

In:  text and earlier turns.   Out: the hidden state from which the first frame is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from backend.core.errors import PromptTooLongError

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.kv_cache import KVCache
    from backend.models.dual_ar import DualAR

RESERVED_FOR_SPEECH = 2048
"""Positions the official package keeps free behind a prompt: 95 s of S1-mini's speech."""


def max_prompt_positions(max_positions: int) -> int:
    """Positions a prompt may take: all but 2,048 as officially, or half where that leaves less."""
    return max_positions - min(RESERVED_FOR_SPEECH, max_positions // 2)


def prefill_prompt(model: DualAR, rows: Tensor, kv: KVCache) -> Tensor:
    """Fill an empty cache with a prompt.

    Args:
        model: On the cache's device.
        rows: ``[1 + K, T]`` int64.
        kv: Empty.

    Returns:
        ``[1, dim]``, the last position's hidden state before the final norm.

    Raises:
        PromptTooLongError: The prompt leaves too little room for speech.
    """
    length = rows.shape[1]
    limit = max_prompt_positions(kv.max_positions)
    if length > limit:
        raise PromptTooLongError(
            f"the prompt needs {length} positions and at most {limit} are allowed; use a shorter "
            "or fewer reference recordings, a shorter text, or raise MAX_SEQ_LEN"
        )
    device = model.embeddings.weight.device
    positions = torch.arange(length, device=device)[None]
    hidden = model.slow(rows[None].to(device), positions, kv, None)
    kv.advance(length)
    return hidden[:, -1]
