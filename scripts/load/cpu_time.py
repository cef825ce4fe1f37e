"""CPU time of what this program has started, by what the processes call themselves. Linux only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    cpu_s: float
    title: str


def cpu_seconds(titles: Mapping[str, str], parent: int | None = None) -> dict[str, float]:
    """Add up the CPU time that processes have used since they began.

    Args:
        titles: For each name in the result, how the command lines begin.
        parent: Whose children lead the sessions that count; None is this process.
    """
    parent = os.getpid() if parent is None else parent
    processes = list(_processes())
    sessions = {process.pid for process in processes if process.parent == parent}
    used = dict.fromkeys(titles, 0.0)
    for process in processes:
        if process.session in sessions:
            for name, beginning in titles.items():
                used[name] += process.cpu_s * process.title.startswith(beginning)
    return used


def _processes() -> Iterator[_Process]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            title = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        fields = stat.rpartition(")")[2].split()  # the name before may hold anything
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        yield _Process(int(entry.name), int(fields[1]), int(fields[3]), cpu_s, title)
