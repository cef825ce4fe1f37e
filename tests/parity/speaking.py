"""The plainest way to speak with our networks: what the engine does, without its care for speed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.models.dual_ar import DualAR

Draw = Callable[[Tensor], int]


class GrowingStore:
    """Keys and values that grow by concatenation."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer_idx in self._seen:
            old_k, old_v = self._seen[layer_idx]
            k, v = torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2)
        self._seen[layer_idx] = (k, v)
        return k, v


def take_likeliest(logits: Tensor) -> int:
    return int(logits.argmax())


@torch.inference_mode()
def speak(model: DualAR, rows: Tensor, max_frames: int, draw: Draw = take_likeliest) -> Tensor:
    """Codes ``[K, F]`` spoken after prompt rows ``[1 + K, T]``; stops at the end token.

    ``draw`` turns ``[N]`` logits into an index: first semantic ones (the last is the end), then
    the residual ones of the frame.
    """
    store, length = GrowingStore(), rows.shape[1]
    hidden = model.slow(rows[None], torch.arange(length)[None], store)[:, -1]
    frames: list[list[int]] = []
    for step in range(max_frames):
        semantic = draw(model.semantic_logits(hidden)[0])
        if semantic == model.num_semantic:
            break
        frames.append(_whole_frame(model, hidden, semantic, draw))
        column = torch.tensor([semantic + model.semantic_begin_id, *frames[-1]])[None, :, None]
        hidden = model.slow(column, torch.tensor([[length + step]]), store)[:, -1]
    return torch.tensor(frames).reshape(-1, model.config.num_codebooks).T


def fast_logits(model: DualAR, hidden: Tensor, codes: list[int]) -> Tensor:
    """Logits ``[K - 1, residual_size]`` of all residual codes of a frame, in one causal pass."""
    embedded = model.fast_embeddings(torch.tensor(codes[:-1]))[None]
    x = torch.cat((model.fast_input(hidden)[:, None], embedded), dim=1)
    out = model.fast(x, torch.arange(x.shape[1]), GrowingStore())
    return model.fast_logits(out[0, 1:])


def _whole_frame(model: DualAR, hidden: Tensor, semantic: int, draw: Draw) -> list[int]:
    store, codes = GrowingStore(), [semantic]
    model.fast(model.fast_input(hidden)[:, None], torch.tensor([0]), store)
    for position in range(1, model.config.num_codebooks):
        x = model.fast_embeddings(torch.tensor([[codes[-1]]]))
        out = model.fast(x, torch.tensor([position]), store)
        codes.append(draw(model.fast_logits(out)[0, -1]))
    return codes
