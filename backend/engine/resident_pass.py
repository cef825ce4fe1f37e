"""Passes of a transformer over one new position a row, as one resident kernel.

``kernels/resident_*.cu`` say how it works. Here its sizes are chosen, its workspace is made and its
arguments are laid out; who launches it is the caller's choice, so that a test can run the same
source on a CPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from backend.models.config import BlockConfig
    from backend.models.layers import TransformerBlock

PARTS = (
    "hopper",
    *(
        f"resident_{part}"
        for part in (
            "machine",
            "weights",
            "mail",
            "linear",
            "attention",
            "slow_attention",
            "fast_attention",
            "draw",
            "pass",
        )
    ),
)
NAME = "resident_pass"
NUM_THREADS = 256
NUM_BLOCKS = 128
"""Blocks of a card, one a multiprocessor."""
_WARPS = 8
_COLUMNS = 8
"""Rows of a batch that one product of the matrix units takes."""
_LAYER_BYTES = 128
_STAMPS = 1024
"""Of a launch, see ``resident_pass.cu``."""
FEW_ROWS = 2
"""Sequences up to which kernels read rows one after another; a pair of positions is two rows."""
COPIES = 2
"""Of mailboxes that all blocks read, so that they do not all read the same lines."""
_MOST_SPLITS = 16
_HEAD_DIMS = (32, 64, 128, 256)
"""Eight dimensions a lane: a power of two of them makes a head."""
MOST_CODES = 16
"""Of a frame, semantic code included: attention of the fast transformer holds them in registers."""


class DrawArguments(ctypes.Structure):
    """``struct Draws`` of the kernel."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "seeds", "steps", "temperature", "greedy", "top_p", "top_k", "penalty", "window",
            "recent", "embeddings", "codes",
        )),
        ("first_draw", ctypes.c_int64),
        ("codebooks", ctypes.c_int),
        ("width", ctypes.c_int),
    )  # fmt: skip


class PassArguments(ctypes.Structure):
    """``struct Args`` of the kernel."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "layers", "x", "head_norm", "head", "logits", "x_out", "box_x", "box_squares",
            "box_qkv", "box_mixed", "box_mid", "box_mid_squares", "box_inner", "box_part",
            "box_logits", "box_codes", "epoch", "rope", "slots", "lengths",
        )),
        *((name, ctypes.c_int64) for name in (
            "x_stride", "logits_stride", "x_out_stride", "slot_stride", "head_stride",
        )),
        ("draws", DrawArguments),
        ("batch", ctypes.c_int),
        ("splits", ctypes.c_int),
        ("eps", ctypes.c_float),
    )  # fmt: skip


def source() -> str:
    """The kernel's text."""
    folder = Path(__file__).with_name("kernels")
    return "".join((folder / f"{part}.cu").read_text("utf-8") for part in PARTS)


@dataclass(frozen=True, slots=True)
class PassSizes:
    """What is compiled into a kernel.

    Attributes:
        block: Of the transformer.
        num_logits: Rows of its head.
        is_slow: Over time, with a cache in slots; else over the codebooks of a frame.
        is_int8: Whether the layers' weights are.
        num_tiles: Columns of 8 rows: 1 or 2.
        is_few: At most ``FEW_ROWS`` sequences, read row by row, which takes less code.
        num_blocks: Of the grid.
    """

    block: BlockConfig
    num_logits: int
    is_slow: bool
    is_int8: bool
    num_tiles: int
    is_few: bool = False
    num_blocks: int = NUM_BLOCKS

    def defines(self, shared_bytes: int) -> dict[str, int]:
        """Macros of the source, for a card that has so much shared memory a block."""
        block = self.block
        return {
            "NCTA": self.num_blocks,
            "NT": self.num_tiles,
            "IS_FEW": int(self.is_few),
            "COPIES": COPIES,
            "MOST_CODES": MOST_CODES,
            "LAYERS": block.n_layer,
            "DIM": block.dim,
            "HEADS": block.n_head,
            "GROUPS": block.n_local_heads,
            "HEAD_DIM": block.head_dim,
            "INTER": block.intermediate_size,
            "NUM_LOGITS": self.num_logits,
            "IS_SLOW": int(self.is_slow),
            "HAS_QK_NORM": int(block.qk_norm),
            "IS_INT8": int(self.is_int8),
            "FIXED": self.fixed_bytes,
            "ROOM": shared_bytes - self.fixed_bytes,
        }

    @property
    def fixed_bytes(self) -> int:
        """Shared memory beside the weights: ``struct Shared``, rounded up."""
        block = self.block
        qkv = (block.n_head + 2 * block.n_local_heads) * block.head_dim
        own = block.dim // (8 * self.num_blocks)
        tiles = max(qkv // (16 * self.num_blocks), block.intermediate_size // (8 * self.num_blocks))
        tiles = max(tiles, own, self.head_tiles)
        buffers = 2 if self.num_tiles == 1 else 1
        sums = buffers * _WARPS * tiles * self.num_tiles * 32 * 16
        squares = buffers * _WARPS * self.num_tiles * _COLUMNS * 4
        residual = own * self.num_tiles * 32 * 8
        share = block.n_head // block.n_local_heads
        mixed = (_WARPS if self.is_slow else 1) * share * (block.head_dim + 4) * 4
        mixed += (share + 2 if self.is_slow else 1) * block.head_dim * 4
        scratch = (_WARPS * 8 + 64) * 4 + 12 * 8
        features = qkv + 2 * block.dim + 2 * block.intermediate_size
        scales = block.n_layer * features // self.num_blocks * 4 if self.is_int8 else 4
        norms = (2 * block.n_layer + 1) * (block.dim // self.num_blocks) * 2
        total = sums + squares + residual + mixed + scratch + block.n_layer * _LAYER_BYTES
        total += scales + norms
        return -(-total // 128) * 128

    @property
    def head_tiles(self) -> int:
        """Tiles of the head a block."""
        rows = 16 if self.num_logits >= 16 * self.num_blocks else 8
        return self.num_logits // (rows * self.num_blocks)

    def misfit(self, shared_bytes: int) -> str | None:
        """Why the kernel cannot have these sizes, or None."""
        block, count = self.block, self.num_blocks
        mixed = block.n_head * block.head_dim
        qkv = mixed + 2 * block.n_local_heads * block.head_dim
        step = _WARPS * (64 if self.is_int8 else 32)
        if qkv % (16 * count) or block.dim % (8 * count) or block.intermediate_size % (8 * count):
            return "its layers do not divide among the multiprocessors"
        if any(width % step for width in (block.dim, mixed, block.intermediate_size)):
            return "its widths do not divide among the warps"
        whole = (16 if self.num_logits >= 16 * count else 8) * count
        if self.num_logits < 8 * count or (not self.is_slow and self.num_logits % whole):
            return "its head does not divide among the multiprocessors"
        share = block.n_head // block.n_local_heads
        if self.is_slow and share * block.head_dim != NUM_THREADS:
            return "its head groups are not 256 wide"
        if block.head_dim not in _HEAD_DIMS or share > 4 or (block.qk_norm and not self.is_slow):
            return "its heads have another form"
        if self.is_few and self.is_slow and FEW_ROWS * block.n_local_heads > count:
            return "its head groups are more than the multiprocessors"
        if (1 if self.is_slow else MOST_CODES) * (8 * block.n_layer + 16) > _STAMPS:
            return "it has too many layers"
        if block.qkv_bias or block.o_bias:
            return "its layers have biases"
        if not self._fits(shared_bytes - self.fixed_bytes):
            return "the card has too little shared memory"
        return None

    def _fits(self, room: int) -> bool:
        """Whether the weights do: see ``resident_weights.cu`` on the places of the phases."""
        block, count = self.block, self.num_blocks
        size = 1 if self.is_int8 else 2
        mixed = block.n_head * block.head_dim
        row, head_row = block.dim * size + 64, block.dim * 2 + 64
        qkv_rows = (mixed + 2 * block.n_local_heads * block.head_dim) // count
        gate_rows = 2 * block.intermediate_size // count
        own = block.dim // count
        qkv = max(qkv_rows * row, self.num_logits // count * head_row)
        rest = 16 * head_row if self.is_slow else 0
        out_or_down = max(
            own * (mixed * size + 64), rest, own * (block.intermediate_size * size + 64)
        )
        missing = qkv + out_or_down + gate_rows * row - room
        if missing <= 0:
            return True
        shared_rows = -(-missing // (8 * row)) * 8
        return not self.is_int8 and shared_rows < min(qkv_rows, gate_rows)


class Launch(Protocol):
    """Runs the kernel of some sizes."""

    def __call__(self, sizes: PassSizes, args: PassArguments) -> None:
        """Run it."""
        ...


class ResidentPass:
    """One transformer with the workspace for some number of rows.

    Args:
        layers: Its blocks, weights on the device.
        sizes: Of the kernel.
        rope: ``[positions, D / 2, 2]``.
        cache: Keys and values ``[2, L, ...]`` bfloat16; ``D`` values of a position lie together,
            positions behind each other.
        cache_strides: From a slot or row to the next, and from a head to the next, in elements.
        head_norm: ``[dim]``.
        head: ``[>= num_logits, dim]`` bfloat16.
        launch: Runs the kernel.
    """

    def __init__(
        self, layers: Sequence[TransformerBlock], sizes: PassSizes, *, rope: Tensor, cache: Tensor,
        cache_strides: tuple[int, int], head_norm: Tensor, head: Tensor, launch: Launch,
    ) -> None:  # fmt: skip
        block, max_rows = sizes.block, sizes.num_tiles * _COLUMNS
        self._sizes, self._launch = sizes, launch
        self._cache, self._strides = cache, cache_strides
        self._head_norm, self._head = head_norm, head
        self._rope = rope.float().contiguous()
        device = head.device
        self._table = layer_table(layers, cache).to(device)
        mixed = block.n_head * block.head_dim
        share = block.n_head // block.n_local_heads
        units = max(sizes.num_blocks, max_rows * block.n_local_heads)
        letters = {
            "box_x": max_rows * block.dim // 2,
            "box_squares": max_rows * block.dim // 8,
            "box_qkv": max_rows * (mixed + 2 * block.n_local_heads * block.head_dim) // 2,
            "box_mixed": max_rows * mixed // 2,
            "box_mid": max_rows * block.dim // 2,
            "box_mid_squares": max_rows * block.dim // 8,
            "box_inner": max_rows * block.intermediate_size // 2,
            "box_part": units * share * (block.head_dim + 2) if sizes.is_slow else 0,
            "box_logits": 0 if sizes.is_slow else max_rows * sizes.num_logits // 2,
            "box_codes": 0 if sizes.is_slow else max_rows,
        }
        self._boxes = {
            name: torch.zeros(COPIES * count, dtype=torch.int64, device=device)
            for name, count in letters.items()
        }
        self._epoch = torch.zeros(1, dtype=torch.int32, device=device)

    def run_slow(
        self, x: Tensor, slots: Tensor, lengths: Tensor, logits: Tensor, hidden: Tensor,
        hidden_stride: int,
    ) -> None:  # fmt: skip
        """One position a row; everything is read and written where the tensors lie.

        Args:
            x: ``[B, dim]`` bfloat16.
            slots: ``[B]`` int64: the cache of each row.
            lengths: ``[slots]`` int64: positions that are there; they stay as they are.
            logits: ``[B, num_logits]`` bfloat16, written.
            hidden: Takes the hidden states behind the last layer.
            hidden_stride: Between its rows, in elements.
        """
        args = self._arguments(x, slots)
        args.lengths, args.logits, args.x_out = _address(lengths, logits, hidden)
        args.logits_stride, args.x_out_stride = logits.stride(0), hidden_stride
        self._launch(self._sizes, args)

    def run_fast(self, x: Tensor, slots: Tensor, draws: DrawArguments) -> None:
        """All residual codes of a frame.

        Args:
            x: ``[2 B, dim]`` bfloat16: the hidden state and the semantic code of each row.
            slots: ``[B]`` int64.
            draws: How and where to.
        """
        args = self._arguments(x, slots)
        args.draws = draws
        self._launch(self._sizes, args)

    def _arguments(self, x: Tensor, slots: Tensor) -> PassArguments:
        batch, block = slots.shape[0], self._sizes.block
        splits = max(1, self._sizes.num_blocks // (batch * block.n_local_heads))
        splits = 1 << (splits.bit_length() - 1)  # shuffles join them
        names = ("layers", "x", "head_norm", "head", "epoch", "rope", "slots")
        tensors = (self._table, x, self._head_norm, self._head, self._epoch, self._rope, slots)
        boxes = dict(zip(self._boxes, _address(*self._boxes.values()), strict=True))
        return PassArguments(
            **dict(zip(names, _address(*tensors), strict=True)), **boxes,
            x_stride=x.stride(0), slot_stride=self._strides[0], head_stride=self._strides[1],
            batch=batch, splits=min(_MOST_SPLITS, splits), eps=block.norm_eps,
        )  # fmt: skip


def tiles_of(num_rows: int) -> int:
    """Column tiles that hold so many rows, a power of two."""
    tiles = 1
    while tiles * _COLUMNS < num_rows:
        tiles *= 2
    return tiles


def layer_table(layers: Sequence[TransformerBlock], cache: Tensor) -> Tensor:
    """``struct Layer`` of each layer: ``[L, 16]`` int64 addresses, on the host."""
    rows = []
    for layer_idx, layer in enumerate(layers):
        attention, ffn = layer.attention, layer.feed_forward
        linears = (attention.wqkv, attention.wo, ffn.w1, ffn.w3, ffn.w2)
        norms = (layer.attention_norm, layer.ffn_norm, attention.q_norm, attention.k_norm)
        rows.append(_address(
            *(getattr(linear, "weight_int8", None) if hasattr(linear, "weight_int8")
              else linear.weight for linear in linears),
            *(getattr(linear, "scale", None) for linear in linears),
            *(None if norm is None else norm.weight for norm in norms),
            *cache[:, layer_idx].unbind(0),
        ))  # fmt: skip
    return torch.tensor(rows, dtype=torch.int64)


def _address(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
