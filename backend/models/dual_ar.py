"""The dual-AR network: a slow transformer over time, a fast one over the codebooks of a frame.

One position of the slow transformer is one text token or one audio frame. Its hidden state gives
the next semantic token and, before the final norm, the first input of the fast transformer, which
then names the residual codes of that frame one by one. Parameter names are the official ones.

Source: fish-speech 0.1.0 (Apache-2.0), ``models/text2semantic/llama.py``, ``DualARTransformer``.
Differs on purpose: keys and values live outside, and the semantic head can be read alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.joining import joined
from backend.models.layers import RMSNorm, TransformerBlock, rope_table

if TYPE_CHECKING:
    from backend.models.config import BlockConfig, DualARConfig
    from backend.models.layers import KeyValueStore

# The official sampler reads only this many logits of the fast head; a smaller head is read whole.
OFFICIAL_RESIDUAL_SIZE = 1024


class DualAR(nn.Module):
    """Both transformers of one checkpoint.

    Life: construct (on the meta device, if weights follow) -> load weights -> ``bind_tokens`` ->
    use. ``load_dual_ar`` does all of it. The module keeps nothing of a request, so one instance
    serves any number of stores; it is not meant to be trained.

    Args:
        config: Sizes.
        residual_size: How many logits of the fast head are real codes. Default: the official rule,
            ``min(1024, codebook_size)``.
    """

    rope: Tensor
    fast_rope: Tensor
    semantic_head: Tensor | None

    def __init__(self, config: DualARConfig, residual_size: int | None = None) -> None:
        super().__init__()
        self.config = config
        if residual_size is None:
            residual_size = min(OFFICIAL_RESIDUAL_SIZE, config.codebook_size)
        if not 0 < residual_size <= config.codebook_size:
            raise ValueError(
                f"residual_size {residual_size} must be 1..codebook_size ({config.codebook_size})"
            )
        self.residual_size = residual_size
        self.semantic_begin_id = 0
        self.num_semantic = 0
        self._cut_ids: tuple[int, int, int] | None = None
        self.embeddings = _embedding(config.vocab_size, config.dim)
        self.codebook_embeddings = _embedding(
            config.codebook_size * config.num_codebooks, config.dim
        )
        self.layers = _blocks(config.slow_block)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.dim, config.vocab_size, bias=False)
        )
        self.fast_project_in = (
            nn.Identity()
            if config.fast_dim == config.dim
            else nn.Linear(config.dim, config.fast_dim)
        )
        self.fast_embeddings = _embedding(config.codebook_size, config.fast_dim)
        self.fast_layers = _blocks(config.fast_block)
        self.fast_norm = RMSNorm(config.fast_dim, config.norm_eps)
        self.fast_output = nn.Linear(config.fast_dim, config.codebook_size, bias=False)
        self.register_buffer("semantic_head", None, persistent=False)
        self.rebuild_rope(self.embeddings.weight.device)

    def rebuild_rope(self, device: torch.device) -> None:
        """Compute the rotary tables on ``device``; needed after construction on ``meta``."""
        config = self.config
        slow = rope_table(config.max_seq_len, config.head_dim, config.rope_base, device)
        fast = rope_table(config.num_codebooks, config.fast_head_dim, config.rope_base, device)
        # float32 copies of bfloat16 values: the rotation is computed in float32 anyway.
        self.register_buffer("rope", slow.float(), persistent=False)
        self.register_buffer("fast_rope", fast.float(), persistent=False)

    def bind_tokens(self, semantic_begin_id: int, num_semantic: int, im_end_id: int) -> None:
        """Tell the network which token ids are audio, and lay out the constrained head.

        Copies the head rows of the semantic tokens and of ``im_end`` into one contiguous tensor.
        Call it after the weights are in place, and again if they change.

        Raises:
            ValueError: The ids leave the vocabulary or outnumber the codebook, or the head was cut
                to other ones.
        """
        ids = (semantic_begin_id, num_semantic, im_end_id)
        self._check_ids(*ids)
        self.semantic_begin_id, self.num_semantic = semantic_begin_id, num_semantic
        if self._cut_ids is None:
            self.semantic_head = head_rows(self._head_weight().detach(), *ids)
        elif self._cut_ids == ids:
            assert self.output is not None
            self.semantic_head = self.output.weight.detach()
        else:
            raise ValueError(f"the head was cut to the ids {self._cut_ids}, not {ids}")

    def cut_head(self, semantic_begin_id: int, num_semantic: int, im_end_id: int) -> None:
        """Make the head hold the rows that ``bind_tokens`` keeps, and no others.

        For loading: call it on the meta device and give ``output.weight`` by ``head_rows``. The
        vocabulary's other rows score text, which nothing here generates. A head that is tied to the
        embeddings stays as it is.

        Raises:
            ValueError: The ids leave the vocabulary or outnumber the codebook.
        """
        if self.output is None:
            return
        self._check_ids(semantic_begin_id, num_semantic, im_end_id)
        self._cut_ids = (semantic_begin_id, num_semantic, im_end_id)
        self.output = nn.Linear(self.config.dim, num_semantic + 1, bias=False)

    def _check_ids(self, semantic_begin_id: int, num_semantic: int, im_end_id: int) -> None:
        config = self.config
        end = semantic_begin_id + num_semantic
        if not (0 <= semantic_begin_id < end <= config.vocab_size):
            raise ValueError(f"semantic ids {semantic_begin_id}..{end - 1} leave the vocabulary")
        if not 0 <= im_end_id < config.vocab_size:
            raise ValueError(f"im_end id {im_end_id} leaves the vocabulary")
        if num_semantic > config.codebook_size:
            raise ValueError(
                f"{num_semantic} semantic tokens exceed codebook_size {config.codebook_size}"
            )

    def embed(self, rows: Tensor) -> Tensor:
        """Turn prompt rows into input vectors.

        Args:
            rows: ``[B, 1 + K, T]`` int64: row 0 token ids, rows 1..K codes (0 at text positions).

        Returns:
            ``[B, T, dim]`` in the weights' dtype. Text positions hold the token's embedding; audio
            positions the sum with the K code embeddings, divided by ``sqrt(K + 1)`` where the
            config says so.
        """
        config = self.config
        tokens = rows[:, 0]
        is_audio = (tokens >= self.semantic_begin_id) & (
            tokens < self.semantic_begin_id + self.num_semantic
        )
        offsets = torch.arange(config.num_codebooks, device=rows.device) * config.codebook_size
        codes = self.codebook_embeddings(rows[:, 1:] + offsets[:, None]).sum(dim=1)
        text = self.embeddings(tokens)
        audio = text + codes
        if config.scale_codebook_embeddings:
            audio = audio / math.sqrt(config.num_codebooks + 1)
        return torch.where(is_audio[..., None], audio, text)

    def slow(
        self, rows: Tensor, positions: Tensor, store: KeyValueStore, mask: Tensor | None = None
    ) -> Tensor:
        """Run the transformer over time.

        Args:
            rows: ``[B, 1 + K, T]`` int64 prompt rows or the last frame.
            positions: ``[B, T]`` int64, 0..max_seq_len - 1.
            store: Keys and values of the slow layers; gains ``T`` positions.
            mask: ``[B, 1, T, Tk]`` bool (True = visible) or additive. None means causal from an
                empty store for ``T > 1`` and everything visible for ``T == 1``.

        Returns:
            ``[B, T, dim]``, the hidden states *before* the final norm.
        """
        x = self.embed(rows)
        angles = self.rope[positions]
        for layer_idx, layer in enumerate(self.layers):
            x = layer(x, angles, layer_idx, store, mask)
        return x

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Score the whole vocabulary: ``[..., dim]`` hidden states to ``[..., V]``.

        Raises:
            RuntimeError: The head was cut.
        """
        if self._cut_ids is not None:
            raise RuntimeError("the head was cut to the semantic tokens")
        return F.linear(self.norm(hidden), self._head_weight())

    def semantic_logits(self, hidden: Tensor) -> Tensor:
        """Score what may follow inside speech: the semantic codes, then ``im_end``.

        Args:
            hidden: ``[B, dim]`` from ``slow``.

        Returns:
            ``[B, num_semantic + 1]``; column ``c`` is semantic code ``c``, the last one the end.

        Raises:
            RuntimeError: ``bind_tokens`` was not called.
        """
        if self.semantic_head is None:
            raise RuntimeError("call bind_tokens before semantic_logits")
        return F.linear(self.norm(hidden), self.semantic_head)

    def fast_input(self, hidden: Tensor) -> Tensor:
        """Turn ``[..., dim]`` slow hidden states into ``[..., fast_dim]`` fast inputs."""
        if self.config.norm_fastlayer_input:
            hidden = self.norm(hidden)
        return self.fast_project_in(hidden)

    def fast(
        self, x: Tensor, positions: Tensor, store: KeyValueStore, mask: Tensor | None = None
    ) -> Tensor:
        """Run the transformer over the codebooks of one frame.

        Position 0 takes ``fast_input(hidden)``, position ``k + 1`` takes
        ``fast_embeddings(code_k)``; the output at position ``k >= 1`` predicts code ``k``.

        Args:
            x: ``[B, T, fast_dim]``.
            positions: ``[T]`` or ``[B, T]`` int64, 0..K - 1.
            store: Keys and values of the fast layers, empty at position 0 of every frame.
            mask: As in ``slow``.

        Returns:
            ``[B, T, fast_dim]``, for ``fast_logits``.
        """
        angles = self.fast_rope[positions]
        for layer_idx, layer in enumerate(self.fast_layers):
            x = layer(x, angles, layer_idx, store, mask)
        return x

    def fast_logits(self, x: Tensor) -> Tensor:
        """Score residual codes: ``[..., fast_dim]`` from ``fast`` to ``[..., residual_size]``."""
        return F.linear(self.fast_norm(x), self.fast_output.weight[: self.residual_size])

    def _head_weight(self) -> Tensor:
        return self.embeddings.weight if self.output is None else self.output.weight


def head_rows(head: Tensor, semantic_begin_id: int, num_semantic: int, im_end_id: int) -> Tensor:
    """Rows of a head ``[V, dim]`` that speech asks for: the semantic ones, then the end."""
    end = semantic_begin_id + num_semantic
    return joined((head[semantic_begin_id:end], head[im_end_id : im_end_id + 1]))


def _blocks(config: BlockConfig) -> nn.ModuleList:
    return nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))


def _embedding(num_rows: int, dim: int) -> nn.Embedding:
    # Zeros, not nn.Embedding's random start: on the meta device that start imports the compiler,
    # which takes longer than loading the pocket voice.
    return nn.Embedding.from_pretrained(torch.zeros(num_rows, dim))
