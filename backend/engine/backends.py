"""PyTorch's process-wide choices for a card, made in one place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from backend.core.settings import Settings
    from backend.engine.codec_precision import CodecPrecision


def set_allocator(settings: Settings, device: torch.device) -> None:
    """Let the card's memory grow in place (``EXPANDABLE_MEMORY``); before anything is allocated.

    Memory that came in fixed pieces keeps holes: of S1-mini with int4 keys and values a tenth.
    """
    if settings.expandable_memory and device.type == "cuda" and sys.platform == "linux":
        # the older name is deprecated where there is the newer one
        older = torch.cuda.memory._set_allocator_settings
        getattr(torch._C, "_accelerator_setAllocatorSettings", older)("expandable_segments:True")


def set_backends(codec: CodecPrecision) -> tuple[str, ...]:
    """Choose how cuDNN and cuBLAS compute on the card; nothing to choose on a CPU.

    - TF32 convolutions (float32 with 10 bits of mantissa in the products) only where the codec may
      round anyway; they are the encoder's, which stays in float32. Matrix products in float32 keep
      all bits: the quantizer's are among them, and a rounded residual picks other codes. (The
      encoder's transformers allow themselves TF32 while they run.)
    - ``cudnn.benchmark`` off: references have any length, and each new one would be measured. The
      graphs of the codec, whose shapes are fixed, turn it on while they are captured.

    Returns:
        What was chosen, for people.
    """
    if codec.device.type != "cuda":
        return ()
    torch.backends.cudnn.allow_tf32 = codec.rounds_float32
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    tf32 = "TF32 outside the codebooks" if codec.rounds_float32 else "no TF32"
    return (f"codec: {codec.name}, its encoder fp32 with {tf32}",)
