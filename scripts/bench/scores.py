"""How far quantized or rounded weights move what the model would say next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.core.types import SamplingParams, Turn
from backend.models.prompt import build_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.contract import Engine
    from backend.models.dual_ar import DualAR
    from backend.models.tokenizer import Tokenizer
    from backend.opt_engine import OptimizedEngine

TEXT = "The train to the city leaves at nine, and it will be cold and windy."
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_new_tokens=64)


class GrowingStore:
    """Keys and values of one pass over one sequence; fulfills ``KeyValueStore``."""

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All of a single pass are its own."""
        del layer_idx
        return k, v


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two networks that heard the same frames.

    Attributes:
        error: Of the semantic logits, relative to their spread.
        agreement: Share of frames with the same likeliest semantic code.
    """

    error: float
    agreement: float


def greedy_codes(engine: Engine) -> NDArray[np.int32]:
    """``[K, F]`` codes of ``TEXT``, the likeliest each time."""
    slot, frames = engine.prefill(TEXT, [], GREEDY), []
    while (codes := engine.decode_step([slot])[0].codes) is not None:
        frames.append(codes)
    engine.release(slot)
    return np.stack(frames, axis=1)


def forced_codes(engine: OptimizedEngine, codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """``[K, F]``: what the step of ``engine`` draws for ``TEXT`` behind each frame of ``codes``."""
    sampling = replace(GREEDY, min_new_tokens=codes.shape[1] + 1)
    slot = engine.prefill(TEXT, [], sampling)
    drawn: list[NDArray[np.int32]] = []
    for frame in codes.T:
        [result] = engine.decode_step([slot])
        assert result.codes is not None
        drawn.append(result.codes)
        engine.replace_frame(slot, frame)
    engine.release(slot)
    return np.stack(drawn, axis=1)


@torch.inference_mode()
def semantic_scores(model: DualAR, tokenizer: Tokenizer, codes: NDArray[np.int32]) -> Tensor:
    """Semantic logits ``[F, N]`` float32 on the CPU, before each frame of ``codes``, in one pass.

    The frames are given, so that one other choice does not make all that follows another text.
    """
    device = model.embeddings.weight.device
    prompt = build_prompt(tokenizer, TEXT, list[Turn](), codes.shape[0]).to(device)
    spoken = torch.tensor(codes, dtype=torch.int64, device=device)
    frames = torch.cat((spoken[:1] + model.semantic_begin_id, spoken))
    rows = torch.cat((prompt, frames), dim=1)[None]
    positions = torch.arange(rows.shape[2], device=device)[None]
    hidden = model.slow(rows, positions, GrowingStore())[0, prompt.shape[1] - 1 : -1]
    return model.semantic_logits(hidden).float().cpu()


def difference(plain: Tensor, other: Tensor) -> Difference:
    """Compare two results of ``semantic_scores``; a constant added to a row changes nothing."""
    centered = plain - plain.mean(-1, keepdim=True)
    moved = other - other.mean(-1, keepdim=True)
    error = float((moved - centered).norm() / centered.norm())
    same = (plain.argmax(-1) == other.argmax(-1)).float().mean()
    return Difference(error, float(same))
