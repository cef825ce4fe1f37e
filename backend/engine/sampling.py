"""Draw one code per row from logits.

The order of operations is the official one: repetition penalty, then the top-p and top-k cut on
untempered probabilities, then temperature, then an exponential race (the code with the largest
``p / q``, ``q ~ Exp(1)``). Noise comes from the caller, so that a request's randomness is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.core.types import SamplingParams

MIN_TEMPERATURE = 1e-5
"""Below this the draw is the likeliest code; dividing by it would only overflow."""


def draw_noise(num_codes: int, generator: torch.Generator) -> Tensor:
    """Exponential noise for one frame of one sequence.

    Args:
        num_codes: Logits of all draws of the frame together.
        generator: The sequence's own; its device is the noise's device.

    Returns:
        ``[num_codes]`` float32, positive.
    """
    noise = torch.empty(num_codes, dtype=torch.float32, device=generator.device)
    return noise.exponential_(1.0, generator=generator)


def penalize_repetition(logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    """Make codes that were drawn lately less likely.

    Args:
        logits: ``[N]`` float32.
        recent: ``[W]`` int64 codes of the last frames, in any order; repeats count once.
        penalty: Positive logits are divided by it, negative ones multiplied.

    Returns:
        ``[N]`` float32.

    Source:
        fish-speech 0.1.0 (Apache-2.0), ``models/text2semantic/inference.py``, as described in
        ``FISH_SPEECH_ANALYSIS.md``. Two intended differences: upstream's slow stage penalizes the
        wrong tokens (one whole frame 16 steps back, its residual codes read as token ids), and its
        fast stage penalizes code 0 until 16 frames are drawn. Here every codebook is penalized for
        exactly its own last frames.
    """
    picked = logits.gather(0, recent)
    weakened = torch.where(picked < 0, picked * penalty, picked / penalty)
    return logits.scatter(0, recent, weakened)


def keep_likeliest(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """Set all but the likeliest codes to minus infinity.

    Args:
        logits: ``[N]`` float32, before temperature.
        top_p: Codes are kept while the running sum of probability stays at or below it; the code
            that crosses it goes too. The likeliest code always stays.
        top_k: Most codes to keep; 0 keeps all.

    Returns:
        ``[N]`` float32.
    """
    values, order = logits.sort(descending=True)
    drop = values.softmax(-1).cumsum(-1) > top_p
    if top_k > 0:
        drop[top_k:] = True
    drop[0] = False
    return logits.masked_fill(torch.empty_like(drop).scatter_(0, order, drop), float("-inf"))


def sample_code(logits: Tensor, noise: Tensor, params: SamplingParams, recent: Tensor) -> Tensor:
    """Draw one code.

    Args:
        logits: ``[N]`` in any float type.
        noise: ``[N]`` float32 from ``draw_noise``.
        params: Temperature, cut and penalty.
        recent: ``[W]`` int64, codes of this codebook in the last frames; may be empty.

    Returns:
        int64 scalar on the logits' device.
    """
    logits = logits.float()
    if params.repetition_penalty != 1.0 and recent.numel():
        logits = penalize_repetition(logits, recent, params.repetition_penalty)
    if params.temperature < MIN_TEMPERATURE:
        return logits.argmax(-1)
    if params.top_p < 1.0 or params.top_k > 0:
        logits = keep_likeliest(logits, params.top_p, params.top_k)
    probabilities = (logits / params.temperature).softmax(-1)
    return (probabilities / noise).argmax(-1)
