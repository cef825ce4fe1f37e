"""Networks laid out on the meta device: shapes and number formats, no memory.

Kernels compiled from a twin are those of the network itself, which is laid out the same way when it
is loaded; ``compile_start`` says what for.
"""

# Triton is not there beside a CPU torch.
# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.engine.card_kernels import kv_bits, scratch_positions
from backend.engine.card_step import HOPPER, has_int8, keys_of, rows_of_kinds
from backend.engine.compute import CARD_BATCH_SIZES
from backend.engine.decode_step import FrameSizes
from backend.engine.kv_store import KVStore
from backend.engine.slots import SlotState
from backend.engine.step_weights import weights_of
from backend.engine.steps import only_batch_size
from backend.models.codec.codec import Codec
from backend.models.codec.rounding import round_weights
from backend.models.dual_ar import DualAR
from backend.models.quantization import NO_QUANTIZATION, replace_linears

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from backend.core.settings import Settings
    from backend.engine.precision import Precision
    from backend.models.codec.codec import CodecParts
    from backend.models.codec.config import CodecConfig
    from backend.models.config import DualARConfig

_META = torch.device("meta")


def codec_twin(config: CodecConfig, dtype: torch.dtype, parts: CodecParts) -> Codec:
    """Lay out a codec as ``load_codec`` does."""
    with _META:
        codec = Codec(config, parts)
    return round_weights(codec.eval().requires_grad_(requires_grad=False), dtype)


@dataclass(frozen=True, slots=True)
class DualARTwin:
    """A dual-AR network and what an engine keeps for its slots.

    Attributes:
        model: The network, its tokens bound.
        sizes: Of a frame.
        store: Keys and values.
        state: What else the slots keep.
        card: Where the kernels will run.
    """

    model: DualAR
    sizes: FrameSizes
    store: KVStore
    state: SlotState
    card: torch.device

    def why_not_resident(self) -> str | None:
        """Why the resident kernels will not be used, or None."""
        from backend.engine.resident_step import misfit_of

        return misfit_of(self.model, self.sizes, self.store, self.card)

    def compile_resident(self, batch_sizes: tuple[int, ...]) -> None:
        """Compile the resident kernels for some batch sizes."""
        from backend.engine.resident_step import compile_images

        compile_images(self.model, self.sizes, self.card, batch_sizes)

    def compile_prompts(self) -> None:
        """Compile what prompts start."""
        from backend.engine.fused_prefill import FusedPrefill

        FusedPrefill(self.model, self.store, None, self.card).compile_ahead()

    def takes_batch_kernels(self) -> bool:
        """Whether ``why_not_batch`` is likely to have nothing against the network."""
        is_hopper = torch.cuda.get_device_capability(self.card) == HOPPER
        first = weights_of(self.model.layers[0].attention.wqkv)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        return is_hopper and self.model.norm.weight.dtype == torch.bfloat16 and not first.is_nf4

    def compile_batch_kernels(self) -> None:
        """Compile the products of ``BATCH_KERNELS``."""
        from backend.engine.batch_step import why_not_batch

        why_not_batch(self.model, self.sizes.num_residual, self.card)

    def compile_steps(self, settings: Settings, *, is_resident: bool, is_batch: bool) -> None:
        """Compile the Triton kernels of all decode steps."""
        from backend.engine.kernels.launch import compile_ahead

        compile_ahead(self.steps(settings, is_resident=is_resident, is_batch=is_batch))

    def steps(
        self, settings: Settings, *, is_resident: bool, is_batch: bool
    ) -> list[Callable[[], Tensor]]:
        """Give the steps that an engine makes when it warms up, less their CUDA kernels."""
        from backend.engine.batch_step import BatchStep
        from backend.engine.fused_step import FusedStep
        from backend.engine.resident_step import StepEnds

        only_size = only_batch_size(settings)
        resident_rows, batch_rows = rows_of_kinds(
            only_size, is_resident=is_resident, is_batch=is_batch, is_int8=has_int8(self.model)
        )
        keys = keys_of(
            settings.max_slots, self.store.max_positions,
            CARD_BATCH_SIZES if only_size is None else (only_size,),
            max(resident_rows, only_size or 0),
        )  # fmt: skip
        capability = torch.cuda.get_device_capability(self.card)
        steps: list[Callable[[], Tensor]] = []
        for num_rows, bound in keys:
            kind = BatchStep if 1 < num_rows <= batch_rows else FusedStep
            if num_rows <= resident_rows:
                kind = StepEnds
            ids = self.store.lengths.new_full((num_rows,), self.store.scratch_slot)
            step = kind(
                self.model, self.sizes, self.store, self.state, ids, bound,
                has_pdl=capability >= HOPPER, is_hopper=capability == HOPPER,
            )  # fmt: skip
            steps.append(step.run)
        return steps


def dual_ar_twin(
    settings: Settings, precision: Precision, config: DualARConfig, codec: CodecConfig,
    ids: tuple[int, int, int],
) -> DualARTwin:  # fmt: skip
    """Lay out a network as ``load_dual_ar`` does, and an engine's slots for it.

    Args:
        settings: Of the engine.
        precision: Of the network.
        config: Of the network.
        codec: What its codes are for.
        ids: The first semantic token, how many there are, and that of the end.
    """
    num_semantic, num_residual = codec.codebook_sizes[:2]
    num_bits, _ = kv_bits(config, settings, precision.device)
    max_positions = min(config.max_seq_len, settings.max_seq_len)
    store = KVStore(
        config.n_layer, settings.max_slots, config.n_local_heads, max_positions, config.head_dim,
        _META, precision.dtype, scratch_positions(config, settings, precision.device), num_bits,
    )  # fmt: skip
    return DualARTwin(
        model=_network(config, precision, ids),
        sizes=FrameSizes(config.num_codebooks, num_semantic, num_residual, ids[0]),
        store=store,
        state=SlotState(settings.max_slots, config.num_codebooks, _META),
        card=precision.device,
    )


def _network(config: DualARConfig, precision: Precision, ids: tuple[int, int, int]) -> DualAR:
    kept: frozenset[str] = frozenset()
    with _META:
        model = DualAR(config)
        model.cut_head(*ids)
        if precision.quantization != NO_QUANTIZATION:
            kept = replace_linears(model, precision.quantization)
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name not in kept:
                value.data = value.data.to(precision.dtype)
        model.rebuild_rope(_META)
        model.bind_tokens(*ids)
    return model.eval()
