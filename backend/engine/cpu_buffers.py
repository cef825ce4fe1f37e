"""Fixed places where a decode step on a CPU computes, made once for each batch size.

Every view that the step needs is cut here, so that the step itself is products and little else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from backend.engine.decode_step import FrameSizes
    from backend.engine.kv_store import KVStore
    from backend.models.config import BlockConfig


class BlockBuffers:
    """Where the blocks of one transformer compute one position of ``P`` sequences.

    Attributes:
        x: ``[P, dim]``, the residual stream.
        normed: ``[P, dim]``.
        length: ``[P, 1]``, of the vectors that are normalized.
        delta: ``[P, dim]``, what a half of a block adds to the stream.
        qkv: ``[P, (H + 2 G) * D]``. The next views are of it.
        qk: ``[P, H + G, D]``, queries and keys.
        turned: ``[P, H + G, D // 2]``, the same as complex numbers.
        queries: ``[P, G, H // G, D]``; ``row_queries`` has a view for each row.
        keys_values: ``[2, P, G, D]``; ``row_keys_values`` likewise.
        qk_length: ``[P, H + G, 1]``.
        mixed: ``[P, H * D]``, what attention gives; ``mixed_heads`` views it like ``queries``,
            ``row_mixed`` row by row.
        gate_up: ``[P, 2 I]``; ``gate`` and ``up`` are its halves.
        active: ``[P, I]``.
    """

    def __init__(self, num_rows: int, sizes: BlockConfig) -> None:
        num_heads, num_groups, head_dim = sizes.n_head, sizes.n_local_heads, sizes.head_dim
        grouped = (num_groups, num_heads // num_groups)
        self.x = torch.zeros(num_rows, sizes.dim)
        self.normed = torch.zeros(num_rows, sizes.dim)
        self.length = torch.zeros(num_rows, 1)
        self.delta = torch.zeros(num_rows, sizes.dim)
        self.qkv = torch.zeros(num_rows, (num_heads + 2 * num_groups) * head_dim)
        heads = self.qkv.unflatten(1, (-1, head_dim))
        self.qk = heads[:, : num_heads + num_groups]
        self.turned = torch.view_as_complex(self.qk.unflatten(2, (-1, 2)))
        self.queries = heads[:, :num_heads].unflatten(1, grouped)
        self.keys_values = heads[:, num_heads:].unflatten(1, (2, num_groups)).transpose(0, 1)
        self.row_queries = self.queries.unbind(0)
        self.row_keys_values = self.keys_values.unbind(1)
        self.qk_length = torch.zeros(num_rows, num_heads + num_groups, 1)
        self.mixed = torch.zeros(num_rows, num_heads * head_dim)
        self.mixed_heads = self.mixed.view(num_rows, *grouped, head_dim)
        self.row_mixed = self.mixed_heads.unbind(0)
        self.gate_up = torch.zeros(num_rows, 2 * sizes.intermediate_size)
        self.gate, self.up = self.gate_up.split(sizes.intermediate_size, dim=1)
        self.active = torch.zeros(num_rows, sizes.intermediate_size)


class FastRoom:
    """Keys and values of a frame's positions in the fast transformer.

    Attributes:
        new: For each position and layer ``[2, P, G, D]``, where its keys and values go.
        seen: For each position and layer, keys and values ``[P, G, position + 1, D]``.
    """

    def __init__(self, num_rows: int, num_positions: int, sizes: BlockConfig) -> None:
        shape = (num_rows, sizes.n_local_heads, num_positions, sizes.head_dim)
        layers = torch.zeros(sizes.n_layer, 2, *shape).unbind(0)
        positions = range(num_positions)
        self.new = [[room[:, :, :, position] for room in layers] for position in positions]
        self.seen = [
            [(room[0, :, :, : position + 1], room[1, :, :, : position + 1]) for room in layers]
            for position in positions
        ]


class SlowRow:
    """What one row of a batch reads and writes in the store in one step.

    Attributes:
        new: For each layer ``[2, G, D]``, where its new keys and values go.
        keys: For each layer ``[G, D, T]``, the new position included.
        values: For each layer ``[G, T, D]``.
        scores: ``[G, H // G, T]``, room.
        weights: Likewise.
    """

    __slots__ = ("keys", "new", "scores", "values", "weights")

    def __init__(self, store: KVStore, slot: int, length: int, room: Tensor) -> None:
        seen = store.slot_data(slot, 0, length + 1)  # [2, L, G, T, D]
        self.new = seen[:, :, :, length].unbind(1)
        self.keys = seen[0].transpose(-1, -2).unbind(0)
        self.values = seen[1].unbind(0)
        num_groups, heads_per_group = room.shape[1:3]
        shape = (num_groups, heads_per_group, length + 1)
        cells = room.flatten(1)[:, : num_groups * heads_per_group * (length + 1)]
        self.scores, self.weights = cells[0].view(shape), cells[1].view(shape)


class StepBuffers:
    """All of a step of ``P`` sequences.

    Attributes:
        slow: Of the transformer over time.
        fast: Of the transformer over codebooks.
        room: Its keys and values.
        semantic_logits: ``[P, num_semantic + 1]``.
        residual_logits: ``[P, num_residual]``.
        positions: ``[P]`` int64, of the slow transformer.
        turns: ``[P, 1, D // 2]`` complex, its rotation.
        code: ``[P]`` int64, the codes that the fast transformer reads next.
        frame_ids: ``[K]`` int64, rows of one frame's embeddings.
        frame: ``[K, dim]``, these embeddings.
    """

    def __init__(
        self, num_rows: int, sizes: FrameSizes, slow: BlockConfig, fast: BlockConfig
    ) -> None:
        self.slow = BlockBuffers(num_rows, slow)
        self.fast = BlockBuffers(num_rows, fast)
        self.room = FastRoom(num_rows, sizes.num_codebooks, fast)
        self.semantic_logits = torch.zeros(num_rows, sizes.num_semantic + 1)
        self.residual_logits = torch.zeros(num_rows, sizes.num_residual)
        self.positions = torch.zeros(num_rows, dtype=torch.int64)
        self.turns = torch.zeros(num_rows, 1, slow.head_dim // 2, dtype=torch.complex64)
        self.code = torch.zeros(num_rows, dtype=torch.int64)
        self.frame_ids = torch.zeros(sizes.num_codebooks, dtype=torch.int64)
        self.frame = torch.zeros(sizes.num_codebooks, slow.dim)
