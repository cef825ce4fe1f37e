"""bitsandbytes' NF4 kernels for ``NF4Linear``, where they run.

Our codes and scales have the layout that bitsandbytes uses (rows one after another, blocks of 64,
the first of two codes in the upper half of a byte), so its kernels read them as they are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from backend.models.quantized_linear import NF4_BLOCK, NF4_VALUES, NF4Linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_MODULE = "bitsandbytes"
_MAX_DIFFERENCE = 2.0**-6
"""Relative, between both ways in half precision: they add in another order."""


def use_nf4_kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> str:
    """Let the NF4 layers of ``model`` compute with bitsandbytes, if it works on this machine.

    The first layer is tried and compared with our own way before any is changed.

    Returns:
        What was found: the kernel in use, or why our own dequantization stays.
    """
    layers = [module for module in model.modules() if isinstance(module, NF4Linear)]
    if device.type != "cuda" or not layers:
        return "NF4 weights are dequantized by plain PyTorch, which costs time on a CPU"
    layers[0].dequantized(dtype)  # makes the table, before any step is captured
    try:
        library: Any = importlib.import_module(_MODULE)
        _compare(layers[0], bits_and_bytes_kernel(library, layers[0], dtype), dtype)
        for layer in layers:
            if layer.in_features % NF4_BLOCK == 0:
                layer.kernel = bits_and_bytes_kernel(library, layer, dtype)
    except ImportError:
        return (
            "NF4 weights are dequantized by plain PyTorch: bitsandbytes is not installed "
            "(python -m pip install bitsandbytes makes it faster)"
        )
    except (RuntimeError, AttributeError, TypeError, ValueError, OSError) as error:
        for layer in layers:
            layer.kernel = None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"NF4 weights are dequantized by plain PyTorch: bitsandbytes does not work: {reason}"
    return f"NF4 weights are multiplied by bitsandbytes {library.__version__}"


def bits_and_bytes_kernel(
    library: Any, layer: NF4Linear, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Wrap the codes of ``layer`` as bitsandbytes wants them; no copy of the codes is made."""
    device = layer.weight_nf4.device
    state = library.functional.QuantState(
        absmax=layer.scale.float().flatten(),
        shape=torch.Size((layer.out_features, layer.in_features)),
        code=torch.tensor(NF4_VALUES, device=device),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    packed = layer.weight_nf4.view(-1, 1).t()

    def multiply(x: Tensor) -> Tensor:
        return library.matmul_4bit(x, packed, quant_state=state)

    return multiply


@torch.inference_mode()
def _compare(layer: NF4Linear, kernel: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Try both ways on one and on several rows.

    Raises:
        ValueError: They differ by more than rounding.
    """
    device = layer.weight_nf4.device
    generator = torch.Generator(device).manual_seed(0)
    for num_rows in (1, 3):
        x = torch.randn(num_rows, layer.in_features, device=device, generator=generator).to(dtype)
        ours, theirs = x.float() @ layer.dequantized(dtype).float().T, kernel(x).float()
        difference = float((theirs - ours).norm() / ours.norm())
        if not difference <= _MAX_DIFFERENCE:
            raise ValueError(f"its result differs by {difference:.3f} from the exact one")
