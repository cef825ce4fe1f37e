"""How much memory the host has left, on Linux (containers included) and on Windows."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of a container, in both versions of control groups."""


def available_host_bytes() -> int | None:
    """Bytes that a new program could take without swapping; None where nobody tells."""
    if sys.platform == "win32":
        return _windows_available()
    known = [value for value in (meminfo_available(_MEMINFO), _container_available()) if value]
    return min(known) if known else None


def meminfo_available(path: Path) -> int | None:
    """``MemAvailable`` of a ``/proc/meminfo``, in bytes; None if it does not say."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) << 10  # given in KiB
    return None


def container_available(limit: Path, used: Path) -> int | None:
    """What a control group may still take, in bytes; None where it has no limit."""
    try:
        most, now = limit.read_text(encoding="ascii").strip(), used.read_text(encoding="ascii")
    except OSError:
        return None
    # "max" means no limit
    return max(0, int(most) - int(now)) if most.isdigit() else None


def _container_available() -> int | None:
    found = [container_available(limit, used) for limit, used in _CGROUPS]
    return min((value for value in found if value is not None), default=None)


class _MemoryStatus(ctypes.Structure):
    """``MEMORYSTATUSEX`` of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "available", "page_total", "page_left")),
        *((name, ctypes.c_ulonglong) for name in ("virtual_total", "virtual_left", "extended")),
    )


def _windows_available() -> int | None:
    windll = getattr(ctypes, "windll", None)
    status = _MemoryStatus()
    status.length = ctypes.sizeof(_MemoryStatus)
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.available)
