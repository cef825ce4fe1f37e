"""The memory plan: what a model with these settings takes, and whether it fits.

Made before anything is loaded, from sizes alone. The weights and the slots are counted exactly;
the working memory is an estimate from above of what runs at a time: one stage, or with two streams
prompts beside the codec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from backend.core.errors import ConfigurationError
from backend.engine.card_kernels import kv_bits, scratch_positions
from backend.engine.codec_precision import choose_codec_precision
from backend.engine.decode_frames import most_frames_together
from backend.engine.encode_reference import chunk_frames_of
from backend.engine.host_memory import available_host_bytes
from backend.engine.kv_store import kv_bytes
from backend.engine.lanes import num_streams_of
from backend.engine.prefill import max_prompt_positions
from backend.engine.prefill_graphs import SCRATCH_POSITIONS
from backend.models.checkpoint import HEAD, describe_checkpoint
from backend.models.codec.codec import ENCODE_CHUNK_FRAMES, Codec
from backend.models.codec.rounding import float32_names
from backend.models.codec.weights import read_codec_config
from backend.models.config import CONFIG_FILE, DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.host_tables import HOST_TABLES
from backend.models.quantization import replace_linears

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.precision import Precision
    from backend.models.codec.config import CodecConfig

FREE_SHARE = 0.9
"""Share of the free memory that is planned with when the settings name no budget."""
POSITION_STEP = 256
"""Proposed values of MAX_SEQ_LEN are multiples of this."""
SMALL_CHUNK_FRAMES = 8
"""Proposed value of CHUNK_SIZE; the work of the codec on a card grows with it."""
_MIB = 1 << 20
_FLOAT32 = 4
_LIVE_CODEC_TENSORS = 4
"""Tensors of full rate that a convolution block holds at a time: input, snake, output, sum."""
_CUDA_LIBRARY_BYTES = 96 * _MIB
"""Workspaces that the matrix libraries keep: one for each stream that they work on."""
_LIBRARY_BYTES_A_STREAM = 32 * _MIB
"""The same of one stream."""
_STEP_BUFFER_BYTES = 48 * _MIB
"""What the captured steps and prompts keep of their own."""
_ON_CARD = {"decode": 22, "encode": 8}
"""Tensors of full rate a card keeps room for, measured: what cuDNN needs is among them. Batches of
the fused decoder may have twice as many frames: it needs less than half as many tensors."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Sizes and settings, and the bytes that follow from them.

    Attributes:
        config: The dual-AR network.
        codec: The codec.
        dtype: Of weights that are not quantized, and of keys and values.
        quantization: ``none``, ``int8`` or ``nf4``.
        max_slots: Sequences at a time.
        max_positions: Positions of each.
        chunk_frames: Frames that the codec decodes in one go.
        on_cuda: Whether the libraries of a card take their share.
        prefix_bytes: Most that the cache of known prompts takes.
        codec_dtype: Of the codec's decoding half; its encoding half is float32.
        host_embeddings: Which embeddings the card does not hold.
        is_encoder_on_host: Whether the codec's encoding half stays in the host.
        kv_bits: Of stored keys and values, see ``kv_store``.
        scratch_positions: Of the slot of rows that only fill up.
        num_streams: CUDA streams: with 2 a card's codec works while prompts are read.
    """

    config: DualARConfig
    codec: CodecConfig
    dtype: torch.dtype
    quantization: str
    max_slots: int
    max_positions: int
    chunk_frames: int
    on_cuda: bool
    prefix_bytes: int = 0
    codec_dtype: torch.dtype = torch.float32
    host_embeddings: str = "none"
    is_encoder_on_host: bool = False
    kv_bits: int = 16
    scratch_positions: int = 0
    num_streams: int = 1

    @property
    def weight_bytes(self) -> int:
        """The dual-AR network and its tables, but for what stays in the host."""
        return _dual_ar_bytes(self.config, self.dtype, self.quantization, self.host_embeddings)

    @property
    def codec_bytes(self) -> int:
        """The codec's weights: both halves, although a large encoder is loaded when needed."""
        decoder, encoder, _ = _codec_bytes(self.codec, self.codec_dtype)
        return decoder if self.is_encoder_on_host else decoder + encoder

    @property
    def kv_bytes_per_position(self) -> int:
        """Keys and values of one position of one slot."""
        config = self.config
        head = kv_bytes(config.head_dim, self.dtype, self.kv_bits)
        return 2 * config.n_layer * config.n_local_heads * head

    @property
    def slot_bytes(self) -> int:
        """One slot: keys, values and the codec's state."""
        return (
            self.kv_bytes_per_position * self.max_positions
            + _codec_bytes(self.codec, self.codec_dtype)[2]
        )

    @property
    def scratch_bytes(self) -> int:
        """What the slot of rows that only fill up a batch has, on a card."""
        return self.kv_bytes_per_position * self.scratch_positions

    @property
    def workspace_bytes(self) -> int:
        """Most that a prefill, a decode of a chunk or an encoding needs while it runs."""
        libraries = _CUDA_LIBRARY_BYTES + _STEP_BUFFER_BYTES if self.on_cuda else 0
        if self.on_cuda and self.num_streams > 1:
            together = self._prefill_bytes() + self._codec_work_bytes()
            return libraries + _LIBRARY_BYTES_A_STREAM + together
        return libraries + max(self._prefill_bytes(), self._codec_work_bytes())

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self.by_part().values())

    def by_part(self) -> dict[str, int]:
        """Bytes by the names that ``EngineInfo.memory_plan`` has."""
        return {
            "weights": self.weight_bytes,
            "codec": self.codec_bytes,
            "slots": self.slot_bytes * self.max_slots + self.scratch_bytes,
            "prefix_cache": self.prefix_bytes,
            "workspace": self.workspace_bytes,
        }

    def _prefill_bytes(self) -> int:
        config = self.config
        heads = (config.n_head + 2 * config.n_local_heads) * config.head_dim
        # stream, norm and branch; heads before and after the rotation; gate, up, product. Each in
        # the network's format, and once more in float32 where norms and rotations compute.
        widths = 4 * config.dim + 2 * heads + 3 * config.intermediate_size
        per_position = widths * (self.dtype.itemsize + _FLOAT32)
        positions = max_prompt_positions(self.max_positions)
        return per_position * (min(positions, SCRATCH_POSITIONS) if self.on_cuda else positions)

    def _codec_work_bytes(self) -> int:
        codec = self.codec
        # Every stage of the decoder halves the channels, and at least doubles the rate.
        channels = codec.decoder_dim >> len(codec.decoder_rates)
        decode = self.chunk_frames * channels
        encode = ENCODE_CHUNK_FRAMES * codec.encoder_dim
        if not self.on_cuda:
            return max(decode, encode) * codec.frame_length * _FLOAT32 * _LIVE_CODEC_TENSORS
        decode = most_frames_together(self.chunk_frames) * channels * self.codec_dtype.itemsize
        encode = chunk_frames_of("cuda", is_on_host=self.is_encoder_on_host) * codec.encoder_dim
        most = max(_ON_CARD["decode"] * decode, _ON_CARD["encode"] * encode * _FLOAT32)
        return most * codec.frame_length


def plan_for(settings: Settings, precision: Precision, directory: Path) -> MemoryPlan:
    """Plan for the model in ``directory``; reads its configuration alone.

    Raises:
        CheckpointError: The directory is no model directory.
    """
    files = describe_checkpoint(directory)
    config = DualARConfig.from_file(directory / CONFIG_FILE)
    on_cuda = precision.device.type == "cuda"
    return MemoryPlan(
        config=config,
        codec=read_codec_config(files.codec),
        dtype=precision.dtype,
        quantization=precision.quantization,
        max_slots=settings.max_slots,
        max_positions=min(config.max_seq_len, settings.max_seq_len),
        chunk_frames=settings.chunk_size,
        on_cuda=on_cuda,
        prefix_bytes=settings.prefix_cache_mb * _MIB,
        codec_dtype=choose_codec_precision(settings.codec_precision, precision.device).dtype,
        host_embeddings=precision.host_embeddings,
        is_encoder_on_host=settings.encoder_on_host and on_cuda,
        kv_bits=kv_bits(config, settings, precision.device)[0],
        scratch_positions=scratch_positions(config, settings, precision.device) if on_cuda else 0,
        num_streams=num_streams_of(settings),
    )


def require_fit(plan: MemoryPlan, budget_mb: int, device: torch.device) -> None:
    """Refuse a plan that exceeds the budget, or 90 % of what is free where ``budget_mb`` is 0.

    Raises:
        ConfigurationError: It does not fit; the message names settings that would.
    """
    budget = budget_mb * _MIB if budget_mb else free_budget(device)
    if budget is None or plan.total_bytes <= budget:
        return
    parts = ", ".join(f"{name} {_mib(value)}" for name, value in plan.by_part().items())
    source = (
        f"MEMORY_BUDGET_MB={budget_mb}"
        if budget_mb
        else f"{_mib(budget)}, {FREE_SHARE:.0%} of what is free on {device}"
    )
    raise ConfigurationError(
        f"the model does not fit: it takes {_mib(plan.total_bytes)} ({parts}) and may take "
        f"{source}. {_advice(plan, budget)}"
    )


def free_budget(device: torch.device) -> int | None:
    """Bytes to plan with on ``device``; None where the system does not tell."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(device)
        free = min(free, int(total * share) - torch.cuda.memory_reserved(device))
    else:
        free = available_host_bytes()
    return None if free is None else int(free * FREE_SHARE)


def fitting_changes(plan: MemoryPlan, budget: int) -> list[str]:
    """Settings, as ``KEY=value``, of which each alone would make the plan fit."""
    changes: list[str] = []
    slots = most_slots(plan, budget)
    if slots:
        changes.append(f"MAX_SLOTS={slots}")
    positions = _most_positions(plan, budget)
    if positions:
        changes.append(f"MAX_SEQ_LEN={positions}")
    changes += [
        f"QUANTIZATION={other.quantization}"
        for other in _with_fewer_bits(plan)
        if other.total_bytes <= budget
    ]
    on_host = replace(plan, is_encoder_on_host=True)
    if plan.on_cuda and not plan.is_encoder_on_host and on_host.total_bytes <= budget:
        changes.append("ENCODER_ON_HOST=true")
    in_turn = replace(plan, num_streams=1)
    if budget >= in_turn.total_bytes < plan.total_bytes:
        changes.append("NUM_STREAMS=1")
    small = replace(plan, chunk_frames=min(plan.chunk_frames, SMALL_CHUNK_FRAMES))
    if plan.on_cuda and budget >= small.total_bytes < plan.total_bytes:
        changes.append(f"CHUNK_SIZE={SMALL_CHUNK_FRAMES}")
    return changes


def most_slots(plan: MemoryPlan, budget: int) -> int:
    """Slots of the plan that fit into ``budget`` bytes; 0 if not even one does."""
    fixed = plan.total_bytes - plan.slot_bytes * plan.max_slots
    return max(0, min(plan.max_slots, (budget - fixed) // plan.slot_bytes))


def _advice(plan: MemoryPlan, budget: int) -> str:
    changes = fitting_changes(plan, budget)
    if changes:
        return f"Each of these would fit: {', '.join(changes)}"
    for other in (plan, *_with_fewer_bits(plan)):
        single = replace(other, max_slots=1)
        positions = _most_positions(single, budget)
        if positions:
            bits = f" and QUANTIZATION={other.quantization}" if other is not plan else ""
            return f"MAX_SLOTS=1 together with MAX_SEQ_LEN={positions}{bits} would fit"
    least = replace((plan, *_with_fewer_bits(plan))[-1], max_slots=1, max_positions=POSITION_STEP)
    return (
        f"Even QUANTIZATION={least.quantization} with one slot takes {_mib(least.total_bytes)}: "
        "free memory, or use a smaller model (MODEL=pocket)"
    )


def _most_positions(plan: MemoryPlan, budget: int) -> int:
    top = plan.max_positions // POSITION_STEP * POSITION_STEP
    for positions in range(top, 0, -POSITION_STEP):
        if replace(plan, max_positions=positions).total_bytes <= budget:
            return positions
    return 0


def _with_fewer_bits(plan: MemoryPlan) -> list[MemoryPlan]:
    """The same with plain weights quantized; a quantized file cannot be quantized again."""
    if plan.quantization != "none":
        return []
    return [replace(plan, quantization=scheme) for scheme in ("int8", "nf4")]


@lru_cache(maxsize=16)
def _dual_ar_bytes(
    config: DualARConfig, dtype: torch.dtype, quantization: str, host_embeddings: str
) -> int:
    kept: frozenset[str] = frozenset()
    with torch.device("meta"):
        model = DualAR(config)
        if quantization != "none":
            kept = replace_linears(model, quantization)
    absent = {HEAD, *HOST_TABLES[host_embeddings]}
    stored = {name: value for name, value in model.state_dict().items() if name not in absent}
    weights = _bytes(stored[name] for name in kept)
    weights += sum(value.numel() for name, value in stored.items() if name not in kept) * (
        dtype.itemsize
    )
    head = (config.codebook_size + 1) * config.dim * dtype.itemsize
    return weights + head + _bytes((model.rope, model.fast_rope))


@lru_cache(maxsize=4)
def _codec_bytes(config: CodecConfig, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of the decoding half, of the encoding half, and of one stream's state."""
    with torch.device("meta"):
        decoder, encoder = Codec(config, "decode"), Codec(config, "encode")
    wide = set(float32_names(decoder))
    weights = sum(
        value.numel() * (_FLOAT32 if name in wide else dtype.itemsize)
        for name, value in decoder.named_parameters()
    )
    with torch.device("meta"):
        state = decoder.to(dtype).new_decode_state(1)
    return weights, _bytes(encoder.parameters()), _bytes(state.tensors())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:,.0f} MiB"
