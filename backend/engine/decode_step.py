"""Stage 2b: one frame for one sequence, the plain way.

In:  the slot's last hidden state.   Out: the frame's codes ``[K]``.
A step is one pass of the slow transformer and K passes of the fast one. Sequences are stepped one
after another, so a sequence in company draws exactly what it draws alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.engine.sampling import draw_noise, sample_code

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.kv_cache import KVCache
    from backend.engine.slots import Slot
    from backend.models.dual_ar import DualAR


@dataclass(frozen=True, slots=True)
class FrameDecoder:
    """Draws frames with one network.

    Attributes:
        model: With its tokens bound.
        fast_kv: Room for the K positions of the fast transformer, used afresh for every frame.
        num_semantic: Semantic codes; index ``num_semantic`` of the constrained head is im_end.
        num_residual: Codes of each residual codebook.
        semantic_begin_id: Token id of semantic code 0.
    """

    model: DualAR
    fast_kv: KVCache
    num_semantic: int
    num_residual: int
    semantic_begin_id: int

    @property
    def num_codebooks(self) -> int:
        """``K``."""
        return self.model.config.num_codebooks

    def draw_frame(self, slot: Slot) -> Tensor | None:
        """Draw the slot's next frame.

        Returns:
            ``[K]`` int64, or None when the model ends the sequence. The frame waits in
            ``slot.pending_row`` for the next call, so it can be heard before it is read back.
        """
        hidden = self._last_hidden(slot)
        assert slot.sampling is not None
        assert slot.generator is not None
        assert slot.recent is not None
        num_residuals = self.num_codebooks - 1
        draws = [self.num_semantic + 1] + [self.num_residual] * num_residuals
        noise = draw_noise(sum(draws), slot.generator).split(draws)
        recent = slot.recent[:, slot.recent.shape[1] - min(slot.num_frames, slot.recent.shape[1]) :]
        # without the last index, im_end, a sequence cannot end
        may_end = slot.num_frames >= slot.sampling.min_new_tokens
        num_choices = self.num_semantic + may_end
        semantic = sample_code(
            self.model.semantic_logits(hidden)[0, :num_choices],
            noise[0][:num_choices],
            slot.sampling,
            recent[0],
        )
        if int(semantic) == self.num_semantic:
            return None
        frame = self._draw_residuals(slot, hidden, semantic, noise, recent)
        slot.pending_row = torch.cat([semantic[None] + self.semantic_begin_id, frame])[
            None, :, None
        ]
        slot.recent = torch.cat([slot.recent[:, 1:], frame[:, None]], dim=1)
        slot.num_frames += 1
        return frame

    def _last_hidden(self, slot: Slot) -> Tensor:
        if slot.pending_row is not None:
            position = torch.tensor([[slot.kv.length]], device=slot.pending_row.device)
            slot.hidden = self.model.slow(slot.pending_row, position, slot.kv, None)[:, -1]
            slot.kv.advance(1)
            slot.pending_row = None
        assert slot.hidden is not None
        return slot.hidden

    def _draw_residuals(
        self,
        slot: Slot,
        hidden: Tensor,
        semantic: Tensor,
        noise: tuple[Tensor, ...],
        recent: Tensor,
    ) -> Tensor:
        """Codes ``[K]`` of a frame whose semantic code is drawn."""
        assert slot.sampling is not None
        self.fast_kv.reset()
        codes = [semantic]
        # positions 0 (hidden state) and 1 (semantic code) need no draw between them: one pass
        embedded = self.model.fast_embeddings(semantic[None, None])
        rows = torch.cat([self.model.fast_input(hidden)[:, None], embedded], dim=1)
        for codebook in range(1, self.num_codebooks):
            start, length = self.fast_kv.length, rows.shape[1]
            positions = torch.arange(start, start + length, device=rows.device)[None]
            output = self.model.fast(rows, positions, self.fast_kv)[:, -1]
            self.fast_kv.advance(length)
            logits = self.model.fast_logits(output)[0, : self.num_residual]
            code = sample_code(logits, noise[codebook], slot.sampling, recent[codebook])
            codes.append(code)
            rows = self.model.fast_embeddings(code[None, None])
        return torch.stack(codes)
