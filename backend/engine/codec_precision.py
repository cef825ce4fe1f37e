"""The number format of the codec, and its kernels."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from backend.engine.precision import AMPERE
from backend.models.kernel_compiling import wake

if TYPE_CHECKING:
    from backend.models.codec.fused.ops import FusedOps
    from backend.models.codec.layers import SnakeKernel

CodecPrecisionName: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]
_MUCH_SHARED = {(8, 0), (9, 0), (10, 0), (10, 3)}
"""Compute capabilities whose programs have 160 KiB of shared memory and more, which lets kernels
have several loads in flight."""
_PLAIN = "the codec runs in plain PyTorch, not in fused kernels: "
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class CodecPrecision:
    """What the codec runs in.

    Attributes:
        device: One device.
        name: ``fp32``, ``fp16`` or ``bf16``.
        dtype: Of the decoding half, but for the last convolution, the snakes and the codebooks,
            which are float32. The encoding half is float32 always: rounding picks other codes, and
            a reference is encoded once.
        notes: What differs from what was asked for.
    """

    device: torch.device
    name: str
    dtype: torch.dtype
    notes: tuple[str, ...] = ()

    @property
    def rounds_float32(self) -> bool:
        """Whether float32 convolutions and layers may run in TF32 (10 bits in the products)."""
        return self.device.type == "cuda" and self.name != "fp32"


def choose_codec_precision(wanted: CodecPrecisionName, device: torch.device) -> CodecPrecision:
    """Pick the codec's number format.

    ``auto`` is fp16 on a card and fp32 on a CPU. fp16 rather than bf16, because the codec's values
    are small and its mantissa is heard: see the design notes for the measured ratios.
    """
    on_card = device.type == "cuda"
    if wanted == "auto":
        wanted = "fp16" if on_card else "fp32"
    notes: tuple[str, ...] = ()
    if wanted == "bf16" and on_card and torch.cuda.get_device_capability(device) < AMPERE:
        wanted = "fp16"
        notes = ("this card has no bf16 units: the codec runs in fp16 instead",)
    if wanted != "fp32" and not on_card:
        notes = (f"{wanted} is slow for the codec on a CPU; CODEC_PRECISION=auto uses fp32 here",)
    return CodecPrecision(device, wanted, _DTYPES[wanted], notes)


def find_snake_kernel(device: torch.device) -> tuple[SnakeKernel | None, tuple[str, ...]]:
    """Give the fused snake if this machine can run it.

    It is run once: Triton needs a C compiler and a driver that suits it, which shows only then.

    Returns:
        The kernel or None for plain PyTorch, and what to tell people about it.
    """
    if device.type != "cuda":
        return None, ()
    if importlib.util.find_spec("triton") is None:
        return None, ("Triton is not installed: the codec's snake runs as plain PyTorch",)
    try:
        from backend.models.codec.snake_kernel import snake

        wake()
        alpha = torch.ones(1, 2, 1, device=device)
        # of a multiple of 16 values, as a codec has: it is the same kernel
        snake(torch.zeros(1, 2, 8, device=device, dtype=torch.float16), alpha)
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001 - Triton's failures have no common type
        return None, (f"the codec's snake runs as plain PyTorch: Triton failed ({error})",)
    return snake, ()


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """Kernels of the fused codec.

    Attributes:
        decode: Of the decoding half, in half precision; None for the codec's modules.
        encode: Of the encoder's convolutions, in float32 with TF32 products; None as above.
        notes: Why there are none, for people.
    """

    decode: FusedOps | None = None
    encode: FusedOps | None = None
    notes: tuple[str, ...] = ()


def find_fused_ops(precision: CodecPrecision, *, with_encoder: bool) -> FusedChoice:
    """Give the kernels of the fused codec if this machine can run them.

    Args:
        precision: Of the codec.
        with_encoder: Whether the encoder is wanted, too (``CODEC_FUSED_ENCODER``).
    """
    device = precision.device
    if device.type != "cuda" or precision.name == "fp32":
        return FusedChoice()
    capability = torch.cuda.get_device_capability(device)
    if importlib.util.find_spec("triton") is None or capability < AMPERE:
        return FusedChoice(notes=(_PLAIN + "no Triton, or a card before Ampere",))
    try:
        from backend.models.codec.fused.triton_ops import TritonOps
    except ImportError as error:
        return FusedChoice(notes=(f"{_PLAIN}Triton failed ({error})",))
    stages = 4 if capability in _MUCH_SHARED else 2
    encode = TritonOps(precision="tf32", most_stages=stages) if with_encoder else None
    return FusedChoice(TritonOps(most_stages=stages), encode)
