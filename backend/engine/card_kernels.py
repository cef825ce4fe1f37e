"""Whether this machine and the settings let the project's own kernels run, and what depends on it.

Asked before anything is loaded, so it goes by sizes and settings alone.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from backend.engine.kv_store import KV_BITS
from backend.engine.precision import AMPERE
from backend.engine.prefill_graphs import SCRATCH_POSITIONS
from backend.models.quantized_linear import NF4_BLOCK

if TYPE_CHECKING:
    from backend.core.settings import Settings
    from backend.models.config import DualARConfig

_NARROWEST = 16


def why_no_kernels(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on ``device``, or None if they can."""
    if device.type != "cuda":
        return "there is no card"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "the card's compute capability is below 8.0"
    return None


def why_no_fused_prompts(
    config: DualARConfig, settings: Settings, device: torch.device
) -> str | None:
    """Why prompts do not run in fused kernels, or None if they do."""
    if not settings.fused_kernels:
        return "FUSED_KERNELS is off"
    is_nf4 = settings.quantization == "nf4"
    return why_no_kernels(device) or why_not_these_sizes(config, is_nf4=is_nf4)


def kv_bits(
    config: DualARConfig, settings: Settings, device: torch.device
) -> tuple[int, tuple[str, ...]]:
    """Bits of stored keys and values, and what differs from what KV_QUANTIZATION asked for."""
    if settings.kv_quantization == "none":
        return KV_BITS["none"], ()
    reason = why_no_fused_prompts(config, settings, device)
    if reason is None:
        return KV_BITS[settings.kv_quantization], ()
    return KV_BITS["none"], (f"KV_QUANTIZATION: keys and values are not rounded, since {reason}",)


def scratch_positions(config: DualARConfig, settings: Settings, device: torch.device) -> int:
    """Positions that are written of the slot of rows that only fill up."""
    is_fused = why_no_fused_prompts(config, settings, device) is None
    return 1 if is_fused else SCRATCH_POSITIONS


def why_not_these_sizes(config: DualARConfig, *, is_nf4: bool) -> str | None:
    """Why the kernels cannot run a network of these sizes, or None if they can."""
    dims = (config.head_dim, config.fast_head_dim)
    if any(dim & (dim - 1) for dim in dims) or config.head_dim < _NARROWEST:
        return "the head width is no power of two"
    share = config.n_head // config.n_local_heads
    fast_share = config.fast_n_head // config.fast_n_local_heads
    if fast_share & (fast_share - 1) or share > _NARROWEST:
        return "the query heads of a key/value head are too many or no power of two"
    widths = [config.dim, config.n_head * config.head_dim, config.intermediate_size]
    if is_nf4:
        fast_heads = config.fast_n_head * config.fast_head_dim
        widths += [config.fast_dim, fast_heads, config.fast_intermediate_size]
    step = NF4_BLOCK if is_nf4 else _NARROWEST
    if any(width % step for width in widths):
        return f"the width of a layer is no multiple of {step}"
    return None
