"""Which device and which number formats this machine should use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.core.errors import ConfigurationError

if TYPE_CHECKING:
    from backend.core.settings import Settings

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
AMPERE = (8, 0)
"""First compute capability with bf16 matrix units."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Where the networks run and in what.

    Attributes:
        device: One device.
        name: ``bf16``, ``fp16`` or ``fp32``.
        dtype: The transformer's type. The codec has its own: see ``codec_precision``.
        quantization: Of the transformer's linear layers: ``none``, ``int8`` or ``nf4``.
        notes: What differs from what was asked for.
        host_embeddings: Which embeddings stay in the host: ``none``, ``text`` or ``all``.
    """

    device: torch.device
    name: str
    dtype: torch.dtype
    quantization: str = "none"
    host_embeddings: str = "none"
    notes: tuple[str, ...] = ()

    @property
    def format_name(self) -> str:
        """Precision and quantization as one name: ``bf16``, ``bf16 int8``."""
        return self.name if self.quantization == "none" else f"{self.name} {self.quantization}"


def choose_precision(settings: Settings) -> Precision:
    """Pick device and dtype.

    Raises:
        ConfigurationError: A CUDA device was asked for by name and is not there.
    """
    device = _choose_device(settings.device)
    name = settings.mixed_precision
    if name == "auto":
        name = _natural_precision(device)
    notes = _notes(settings, device, name)
    on_host = settings.host_embeddings if device.type == "cuda" else "none"
    return Precision(device, name, DTYPES[name], settings.quantization, on_host, notes)


def cpu_threads(settings: Settings) -> int:
    """Threads for the model's work on a CPU: the setting, or all cores but one, at most 8.

    One core is left over because PyTorch's threads spin while they wait for each other: on two busy
    cores, two threads made a frame of the pocket voice 20 times slower than one.
    """
    return settings.cpu_threads or max(1, min(8, (os.cpu_count() or 1) - 1))


def _choose_device(wanted: str) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"DEVICE={wanted}: this PyTorch ({torch.__version__}) sees no CUDA device; use "
            "DEVICE=cpu, or install a CUDA build of torch (README, Troubleshooting)"
        )
    device = torch.device("cuda:0" if wanted in ("auto", "cuda") else wanted)
    if (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"DEVICE={wanted}: there are only {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _natural_precision(device: torch.device) -> str:
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= AMPERE else "fp16"


def _notes(settings: Settings, device: torch.device, name: str) -> tuple[str, ...]:
    if device.type != "cpu":
        return ()
    notes: list[str] = []
    if settings.mixed_precision == "fp16":
        notes.append("fp16 on a CPU is slow; MIXED_PRECISION=auto uses fp32 here")
    if settings.quantization == "int8" and name != "bf16":
        notes.append(f"QUANTIZATION=int8 saves memory on a CPU, but no time in {name}")
    return tuple(notes)
