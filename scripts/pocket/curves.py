"""Training curves: JSON lines on disk, the same in short on the terminal, an SVG plot of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Curves:
    """Append figures of a run to a file; a run that goes on appends to the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, kind: str, step: int, spent_s: float, figures: dict[str, float]) -> None:
        """Note figures of one moment; ``kind`` is ``train`` or ``held_out``."""
        rounded = {name: float(f"{value:.5g}") for name, value in figures.items()}
        row = {"kind": kind, "step": step, "spent_s": round(spent_s, 1), **rounded}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = " ".join(f"{name} {value:.4g}" for name, value in rounded.items())
        print(f"{kind} step {step} {spent_s:.0f} s: {shown}", flush=True)


def read_curves(path: Path) -> list[dict[str, float | str]]:
    """All rows of a curves file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
