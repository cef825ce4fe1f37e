"""Speak with a trained pocket model, many sentences at once; for judging and for making voices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.pocket.encode_shards import utterance_columns
from scripts.pocket.lm_net import DualAR, KVCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scripts.pocket.codec import Codec


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn; the shipped defaults of the pocket voice."""

    temperature: float = 0.3
    top_p: float = 0.8
    top_k: int = 0
    max_frames: int = 500


@dataclass(frozen=True)
class Prompt:
    """A voice: what was said, and its codes ``[K, F]``."""

    text: str
    codes: NDArray[np.integer]


def prompt_rows(net: DualAR, text: str, voice: Prompt | None) -> Tensor:
    """Prompt ``[1 + K, T]``: interleave, the voice's turn, then the open turn of ``text``."""
    sizes = net.sizes
    opening = np.zeros((1, 1 + sizes.num_codebooks), np.int16)
    opening[0, 0] = sizes.interleave
    nothing = np.zeros((sizes.num_codebooks, 0), np.int16)
    turns = [utterance_columns(sizes, voice.text, voice.codes)] if voice else []
    turn = utterance_columns(sizes, text, nothing)[:-1]
    return torch.from_numpy(np.concatenate([opening, *turns, turn]).T.astype(np.int64))


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token per row of ``[B, V]``, by S1's rule.

    Top-p counts before the temperature, and the token that crosses it goes too.
    """
    if sampling.temperature < 1e-4:
        return logits.argmax(-1)
    ordered, index = logits.float().sort(-1, descending=True)
    drop = ordered.softmax(-1).cumsum(-1) > sampling.top_p
    drop[:, 0] = False
    ordered = ordered.masked_fill(drop, -torch.inf)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    chances = (ordered / sampling.temperature).softmax(-1)
    return index.gather(-1, torch.multinomial(chances, 1, generator=generator))[:, 0]


def _new_caches(layers: int, batch: int, heads: int, positions: int, dim: int) -> list[KVCache]:
    shape = (batch, heads, positions, dim)
    return [KVCache(torch.zeros(shape), torch.zeros(shape)) for _ in range(layers)]


@torch.inference_mode()
def generate(
    net: DualAR, prompts: list[Tensor], sampling: Sampling, seed: int
) -> list[tuple[NDArray[np.int64], bool]]:
    """Codes ``[K, F]`` for each prompt ``[1 + K, T]``, and whether it ended by itself.

    Rows are padded on the left; positions and masks leave the padding out.
    """
    s, generator = net.sizes, torch.Generator().manual_seed(seed)
    batch, longest = len(prompts), max(p.shape[1] for p in prompts)
    total = longest + sampling.max_frames
    rows = torch.stack([F.pad(p, (longest - p.shape[1], 0)) for p in prompts])
    first = torch.tensor([longest - p.shape[1] for p in prompts])
    place = torch.arange(total)
    is_real = place[None] >= first[:, None]
    position = (place[None] - first[:, None]).clamp(min=0)
    causal = (place[:longest, None] >= place[None, :longest]) & is_real[:, None, :longest]
    itself = torch.eye(longest, dtype=torch.bool)
    caches = _new_caches(s.n_layer, batch, s.n_head, total, s.head_dim)
    hidden, normed = net.slow(
        rows, net.table[position[:, :longest]], caches, (causal | itself)[:, None]
    )
    codes = torch.zeros(batch, s.num_codebooks, sampling.max_frames, dtype=torch.long)
    lengths = torch.full((batch,), -1)
    for frame in range(sampling.max_frames):
        logits = net.token_logits(normed[:, -1])
        allowed = torch.full_like(logits, -torch.inf)
        allowed[:, s.im_end] = 0.0
        allowed[:, s.semantic_begin : s.speaker] = 0.0
        token = _draw(logits + allowed, sampling, generator)
        lengths = torch.where((token == s.im_end) & (lengths < 0), frame, lengths)
        if bool((lengths >= 0).all()):
            break
        semantic = (token - s.semantic_begin).clamp(0, s.codebook_size - 1)
        codes[:, :, frame] = _residual_codes(net, hidden[:, -1], semantic, sampling, generator)
        column = torch.cat([(semantic + s.semantic_begin)[:, None], codes[:, :, frame]], 1)
        here = longest + frame
        hidden, normed = net.slow(
            column[..., None], net.table[position[:, here : here + 1]], caches,
            is_real[:, None, None, : here + 1],
        )  # fmt: skip
    has_ended = (lengths >= 0).tolist()
    counts = torch.where(lengths < 0, sampling.max_frames, lengths).tolist()
    return [(codes[i, :, : counts[i]].numpy(), has_ended[i]) for i in range(batch)]


def _residual_codes(
    net: DualAR, hidden: Tensor, semantic: Tensor, sampling: Sampling, generator: torch.Generator
) -> Tensor:
    """All codes ``[B, K]`` of one frame."""
    s, batch = net.sizes, len(hidden)
    caches = _new_caches(s.n_fast_layer, batch, s.fast_n_head, s.num_codebooks, s.fast_head_dim)
    x, codes = net.fast_project_in(hidden)[:, None], [semantic]
    for k in range(s.num_codebooks):
        for layer, cache in zip(net.fast_layers, caches, strict=True):
            x = layer(x, net.fast_table[k : k + 1], cache)
        if k:
            logits = net.fast_output(net.fast_norm(x[:, -1]))
            codes.append(_draw(logits, sampling, generator))
        x = net.fast_embeddings(codes[-1])[:, None]
    return torch.stack(codes, 1)


@torch.inference_mode()
def codes_of(codec: Codec, samples: NDArray[np.float32]) -> NDArray[np.int64]:
    """Codes ``[K, F]`` of ``[S]`` samples."""
    return codec.encode(torch.from_numpy(samples)[None, None])[0].numpy()


@torch.inference_mode()
def samples_of(codec: Codec, codes: NDArray[np.integer]) -> NDArray[np.float32]:
    """``[S]`` samples of codes ``[K, F]``."""
    if codes.shape[1] == 0:
        return np.zeros(0, np.float32)
    return codec.decode(torch.from_numpy(codes.astype(np.int64))[None])[0, 0].numpy()
