"""Draw one code per row from logits, many sequences at once, without reading anything back.

The order of operations is the official one: repetition penalty, then the top-p and top-k cut on
untempered probabilities, then temperature, then an exponential race (the code with the largest
``p / q``, ``q ~ Exp(1)``). Noise comes from the caller, so that a request's randomness is its own.
Every operation works on a row by itself: a row in a batch draws what it draws alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.core.types import SamplingParams

MIN_TEMPERATURE = 1e-5
"""Below this the draw is the likeliest code; dividing by it would only overflow."""
NO_CUT = 2.0
"""A top-p that no sum of probabilities reaches, whatever its rounding."""


@dataclass(slots=True)
class RowSampling:
    """How the codes of each row are drawn.

    Attributes:
        temperature: ``[B]`` float32, above 0; 1 in greedy rows.
        greedy: ``[B]`` bool: take the likeliest code.
        top_p: ``[B]`` float32; ``NO_CUT`` keeps all.
        top_k: ``[B]`` int64; ``2 ** 62`` keeps all.
        repetition_penalty: ``[B]`` float32; 1 is off.
        has_cut: Whether any row has a top-p or top-k. False skips the sort.
        has_penalty: Whether any row has a repetition penalty. False ignores ``recent``.
    """

    temperature: Tensor
    greedy: Tensor
    top_p: Tensor
    top_k: Tensor
    repetition_penalty: Tensor
    has_cut: bool = True
    has_penalty: bool = True

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> RowSampling:
        """Rows that are all greedy, uncut and without penalty."""
        return cls(
            temperature=torch.ones(num_rows, device=device),
            greedy=torch.ones(num_rows, dtype=torch.bool, device=device),
            top_p=torch.full((num_rows,), NO_CUT, device=device),
            top_k=torch.full((num_rows,), 1 << 62, dtype=torch.int64, device=device),
            repetition_penalty=torch.ones(num_rows, device=device),
        )

    @classmethod
    def of(cls, params: SamplingParams, device: torch.device) -> RowSampling:
        """One row."""
        rows = cls.empty(1, device)
        rows.set_row(0, params)
        rows.has_cut, rows.has_penalty = has_cut(params), has_penalty(params)
        return rows

    def set_row(self, row: int, params: SamplingParams) -> None:
        """Write one row."""
        is_greedy = params.temperature < MIN_TEMPERATURE
        self.temperature[row] = 1.0 if is_greedy else params.temperature
        self.greedy[row] = is_greedy
        self.top_p[row] = params.top_p if params.top_p < 1.0 else NO_CUT
        self.top_k[row] = params.top_k if params.top_k > 0 else 1 << 62
        self.repetition_penalty[row] = params.repetition_penalty

    def rows(self, row_ids: Tensor, *, has_cut: bool, has_penalty: bool) -> RowSampling:
        """Gather rows."""
        return RowSampling(
            temperature=self.temperature[row_ids],
            greedy=self.greedy[row_ids],
            top_p=self.top_p[row_ids],
            top_k=self.top_k[row_ids],
            repetition_penalty=self.repetition_penalty[row_ids],
            has_cut=has_cut,
            has_penalty=has_penalty,
        )


def has_cut(params: SamplingParams) -> bool:
    """Whether these parameters need the sort."""
    is_greedy = params.temperature < MIN_TEMPERATURE
    return not is_greedy and (params.top_p < 1.0 or params.top_k > 0)


def has_penalty(params: SamplingParams) -> bool:
    """Whether these parameters need the recent codes."""
    return params.repetition_penalty != 1.0 and params.repetition_window > 0


def penalize_repetition(logits: Tensor, recent: Tensor, penalty: Tensor) -> Tensor:
    """Make codes that were drawn lately less likely.

    Args:
        logits: ``[B, N]`` float32.
        recent: ``[B, W]`` int64 codes of the last frames, in any order; repeats count once, -1
            stands for none.
        penalty: ``[B]`` float32. Positive logits are divided by it, negative ones multiplied.

    Returns:
        ``[B, N]`` float32.

    Source:
        fish-speech 0.1.0 (Apache-2.0), ``models/text2semantic/inference.py``, as described in
        ``FISH_SPEECH_ANALYSIS.md``. Two intended differences: upstream's slow stage penalizes the
        wrong tokens (one whole frame 16 steps back, its residual codes read as token ids), and its
        fast stage penalizes code 0 until 16 frames are drawn. Here every codebook is penalized for
        exactly its own last frames.
    """
    num_rows, num_codes = logits.shape
    # one column more than there are codes takes what stands for none
    is_recent = logits.new_zeros(num_rows, num_codes + 1, dtype=torch.bool)
    is_recent.scatter_(1, torch.where(recent < 0, num_codes, recent), True)
    weakened = torch.where(logits < 0, logits * penalty[:, None], logits / penalty[:, None])
    return torch.where(is_recent[:, :num_codes], weakened, logits)


def keep_likeliest(logits: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """Set all but the likeliest codes to minus infinity.

    Args:
        logits: ``[B, N]`` float32, before temperature.
        top_p: ``[B]``. Codes are kept while the running sum of probability stays at or below it;
            the code that crosses it goes too. The likeliest code always stays.
        top_k: ``[B]``. Most codes to keep.

    Returns:
        ``[B, N]`` float32.
    """
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    drop = (values.softmax(-1).cumsum(-1) > top_p[:, None]) | (rank >= top_k[:, None])
    drop[:, 0] = False
    return logits.masked_fill(torch.empty_like(drop).scatter_(1, order, drop), float("-inf"))


def sample_codes(logits: Tensor, noise: Tensor, rows: RowSampling, recent: Tensor) -> Tensor:
    """Draw one code per row.

    Args:
        logits: ``[B, N]`` in any float type.
        noise: ``[B, N]`` float32 from ``exponential_noise``.
        rows: Temperature, cut and penalty of each row.
        recent: ``[B, W]`` int64, codes of this codebook in the last frames, -1 for none.

    Returns:
        ``[B]`` int64 on the logits' device.
    """
    logits = logits.float()
    if rows.has_penalty:
        logits = penalize_repetition(logits, recent, rows.repetition_penalty)
    kept = keep_likeliest(logits, rows.top_p, rows.top_k) if rows.has_cut else logits
    probabilities = (kept / rows.temperature[:, None]).softmax(-1)
    # the likeliest code survives every cut; its logit, unlike its probability, has no equals
    return torch.where(rows.greedy[:, None], kept, probabilities / noise).argmax(-1)


def sample_code(logits: Tensor, noise: Tensor, params: SamplingParams, recent: Tensor) -> Tensor:
    """Draw one code of one sequence: ``[N]``, ``[N]`` and ``[W]`` to an int64 scalar."""
    rows = RowSampling.of(params, logits.device)
    return sample_codes(logits[None], noise[None], rows, recent[None])[0]
