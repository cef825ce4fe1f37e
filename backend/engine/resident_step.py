"""One frame of up to 16 rows with two resident kernels: the slow pass, and all fast passes.

The semantic draw, embeddings and the end of a frame are those of ``FusedStep``; what lies between
them is a kernel that stays on the card (``resident_pass``) instead of five a layer.
"""

# Layers are found by index.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportIndexIssue=false

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch

from backend.engine.fused_step import FusedStep
from backend.engine.nvrtc import Kernel, KernelError, compiled
from backend.engine.resident_pass import (
    FEW_ROWS,
    MOST_CODES,
    NAME,
    NUM_BLOCKS,
    NUM_THREADS,
    DrawArguments,
    PassArguments,
    PassSizes,
    ResidentPass,
    source,
    tiles_of,
)
from backend.models.quantized_linear import QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from backend.engine.decode_step import FrameSizes
    from backend.engine.kv_store import KVStore
    from backend.engine.resident_pass import Launch
    from backend.engine.slots import SlotState
    from backend.models.dual_ar import DualAR
    from backend.models.layers import TransformerBlock


_MOST_ROWS = (2, 8, 16)
"""Rows that fill a kernel for few rows, and of one and of two column tiles."""


class StepEnds(FusedStep):
    """What a resident step starts beside its two kernels: for compiling ahead."""

    lets_early = True

    def _slow_pass(self) -> None:
        pass

    def _fast_passes(self) -> None:
        pass


class ResidentStep(StepEnds):
    """The kernels of one batch size; any length.

    Args:
        model: With its tokens bound; ``why_not_resident`` has nothing against it.
        sizes: Of a frame.
        store: Keys and values of the slots.
        state: What else the slots keep.
        slot_ids: ``[P]`` int64, P at most 16, read at every run.
        has_pdl: Whether kernels may start before the one in front has ended.
    """

    def __init__(
        self, model: DualAR, sizes: FrameSizes, store: KVStore, state: SlotState,
        slot_ids: Tensor, *, has_pdl: bool,
    ) -> None:  # fmt: skip
        super().__init__(model, sizes, store, state, slot_ids, 1, has_pdl=has_pdl)
        assert model.semantic_head is not None
        slow, fast = pass_sizes(model, sizes, self._num_rows)
        launch = _launcher(store.lengths.device, has_pdl=has_pdl)
        self._slow = ResidentPass(
            list(model.layers), slow, rope=model.rope, cache=store.data,
            cache_strides=(store.max_positions * store.data.stride(3), store.data.stride(2)),
            head_norm=model.norm.weight, head=model.semantic_head, launch=launch,
        )  # fmt: skip
        self._fast = ResidentPass(
            list(model.fast_layers), fast, rope=model.fast_rope, cache=self._fast_kv,
            cache_strides=(self._fast_kv.stride(2), self._fast_kv.stride(3)),
            head_norm=model.fast_norm.weight, head=model.fast_output.weight, launch=launch,
        )  # fmt: skip

    def _slow_pass(self) -> None:
        self._slow.run_slow(
            self._x, self._slots, self._store.lengths, self._logits, self._fast_x,
            2 * self._config.fast_dim,
        )  # fmt: skip

    def _fast_passes(self) -> None:
        draws = draw_arguments(self._model, self._sizes, self._state, self.codes)
        self._fast.run_fast(self._fast_x, self._slots, draws)


def draw_arguments(
    model: DualAR, sizes: FrameSizes, state: SlotState, codes: Tensor
) -> DrawArguments:
    """How residual codes are drawn into ``codes`` ``[B, K]`` int64."""
    rows = state.sampling
    return DrawArguments(
        seeds=state.seeds.data_ptr(), steps=state.steps.data_ptr(),
        temperature=rows.temperature.data_ptr(), greedy=rows.greedy.data_ptr(),
        top_p=rows.top_p.data_ptr(), top_k=rows.top_k.data_ptr(),
        penalty=rows.repetition_penalty.data_ptr(), window=state.window.data_ptr(),
        recent=state.recent.data_ptr(), embeddings=model.fast_embeddings.weight.data_ptr(),
        codes=codes.data_ptr(), first_draw=sizes.draws[0], codebooks=sizes.num_codebooks,
        width=state.recent.shape[2],
    )  # fmt: skip


def _first_linear(model: DualAR) -> torch.nn.Module:
    first: TransformerBlock = model.layers[0]
    return first.attention.wqkv


def pass_sizes(model: DualAR, sizes: FrameSizes, num_rows: int) -> tuple[PassSizes, PassSizes]:
    """Sizes of the slow and of the fast kernel for so many rows."""
    config, num_tiles, is_few = model.config, tiles_of(num_rows), num_rows <= FEW_ROWS
    is_int8 = isinstance(_first_linear(model), QuantizedLinear)
    slow = PassSizes(
        config.slow_block,
        sizes.num_semantic + 1,
        is_slow=True,
        is_int8=is_int8,
        num_tiles=num_tiles,
        is_few=is_few,
    )
    fast = PassSizes(
        config.fast_block,
        sizes.num_residual,
        is_slow=False,
        is_int8=is_int8,
        num_tiles=num_tiles,
        is_few=is_few,
    )
    return slow, fast


def why_not_resident(
    model: DualAR, sizes: FrameSizes, store: KVStore, batch_sizes: Sequence[int] = _MOST_ROWS
) -> str | None:
    """Why the resident kernels cannot run this network here, or None if they can.

    It compiles those for ``batch_sizes`` if all else is well, in parallel and once a machine.
    """
    device = store.lengths.device
    reason = misfit_of(model, sizes, store, device)
    if reason is not None:
        return reason
    try:
        compile_images(model, sizes, device, batch_sizes)
        for each in _kinds(model, sizes, batch_sizes):
            kernel_of(each, device, has_pdl=True)
    except KernelError as error:
        return str(error).splitlines()[0]
    return None


def misfit_of(model: DualAR, sizes: FrameSizes, store: KVStore, device: torch.device) -> str | None:
    """Why the resident kernels cannot run this network on a card, or None; compiles nothing."""
    properties = torch.cuda.get_device_properties(device)
    config = model.config
    if (properties.major, properties.minor) != (9, 0):
        return "they were proved on compute capability 9.0 alone"
    if properties.multi_processor_count < NUM_BLOCKS:
        return f"the card has fewer than {NUM_BLOCKS} multiprocessors"
    if {model.norm.weight.dtype, store.data.dtype} != {torch.bfloat16}:
        return "they are for bf16, keys and values included"
    if not isinstance(_first_linear(model), torch.nn.Linear | QuantizedLinear):
        return "the weights are neither plain nor int8"
    if config.fast_dim != config.dim or config.norm_fastlayer_input:
        return "the fast transformer does not read the hidden states as they are"
    if not 2 <= sizes.num_codebooks <= MOST_CODES:
        return f"a frame has {sizes.num_codebooks} codes and not 2 to {MOST_CODES}"
    shared_bytes = properties.shared_memory_per_block_optin
    for each in _kinds(model, sizes, _MOST_ROWS):
        reason = each.misfit(shared_bytes)
        if reason:
            return reason
    return None


def compile_images(
    model: DualAR, sizes: FrameSizes, device: torch.device, batch_sizes: Sequence[int]
) -> None:
    """Compile the kernels of a network for a card, in parallel; nothing is loaded.

    Raises:
        KernelError: NVRTC is not there, or refuses the source.
    """
    kinds = _kinds(model, sizes, batch_sizes)
    with ThreadPoolExecutor(len(kinds)) as threads:  # the compiler works outside Python's lock
        list(threads.map(lambda each: _image(each, device, has_pdl=True), kinds))


def _kinds(model: DualAR, sizes: FrameSizes, batch_sizes: Sequence[int]) -> list[PassSizes]:
    kinds = [each for rows in batch_sizes for each in pass_sizes(model, sizes, rows)]
    return list(dict.fromkeys(kinds))


@cache
def _image(sizes: PassSizes, device: torch.device, *, has_pdl: bool) -> bytes:
    shared_bytes = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    defines = sizes.defines(shared_bytes)
    if has_pdl:
        defines["HAS_PDL"] = 1
    return compiled(source(), defines, device)


@cache
def kernel_of(sizes: PassSizes, device: torch.device, *, has_pdl: bool) -> Kernel:
    """The kernel of these sizes, compiled and loaded once a process."""
    shared_bytes = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return Kernel(_image(sizes, device, has_pdl=has_pdl), NAME, shared_bytes)


def _launcher(device: torch.device, *, has_pdl: bool) -> Launch:
    def launch(sizes: PassSizes, args: PassArguments) -> None:
        kernel = kernel_of(sizes, device, has_pdl=has_pdl)
        kernel.launch(sizes.num_blocks, NUM_THREADS, args, starts_early=has_pdl)

    return launch
