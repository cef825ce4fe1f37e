"""What this machine is, and what is installed on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from backend.engine.host_memory import available_host_bytes

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "triton", "bitsandbytes", "numpy", "safetensors", "tiktoken")
_MIB = 1 << 20


def machine() -> dict[str, Any]:
    """Processor, cards and free memory."""
    free = available_host_bytes()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "host_free_mib": None if free is None else free // _MIB,
        "system": platform.platform(),
        "python": platform.python_version(),
        "cards": [_card(index) for index in range(torch.cuda.device_count())],
    }


def versions() -> dict[str, str | None]:
    """Versions of what matters for speed; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    # a build may lack its package's metadata, and carries its CUDA in its own version
    found["torch"] = torch.__version__
    found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The commit of this working tree, with ``-dirty`` where it was changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def peak_host_mib() -> int | None:
    """Most memory this process had in the host so far; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // _MIB if sys.platform == "darwin" else peak >> 10


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _card(index: int) -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": facts.name,
        "compute_capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "memory_total_mib": total // _MIB,
        "memory_free_mib": free // _MIB,
    }
