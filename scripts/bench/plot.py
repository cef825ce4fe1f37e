"""Draw a benchmark as an SVG: milliseconds per frame and times real time over the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTH, HEIGHT, MARGIN = 420, 280, 58
_COLORS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#9467bd", "#6cc5b0", "#97bbf5", "#9c6b4e")
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis: values from ``low`` to ``high`` over ``length`` pixels."""

    low: float
    high: float
    length: float

    def at(self, value: float) -> float:
        """Pixels from the beginning."""
        span = math.log(self.high / self.low) or 1.0
        return math.log(value / self.low) / span * self.length

    def ticks(self) -> list[float]:
        """1, 2, 5, 10 and so on, inside the range."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [step * 10.0**power for power in powers for step in _STEPS]
        return [value for value in values if self.low <= value <= self.high]


Curves = dict[str, dict[int, float]]


def write_plot(
    path: Path, steps_ms: Mapping[str, Mapping[int, float]], frame_rate: float, title: str
) -> None:
    """Write an SVG with two panels.

    Args:
        path: Where to.
        steps_ms: Milliseconds of a decode step by batch size, for each curve.
        frame_rate: Frames per second of speech.
        title: Names the machine.
    """
    per_step = {name: dict(points) for name, points in steps_ms.items()}
    realtime = {
        name: {batch: batch / ms * 1e3 / frame_rate for batch, ms in points.items()}
        for name, points in per_step.items()
    }
    panels = _panel(per_step, 0, "ms per frame of all sequences") + _panel(
        realtime, 1, "x real time, all sequences (decode alone)"
    )
    names = "".join(
        f'<text x="{MARGIN + 10}" y="{MARGIN + 16 + 14 * index}" fill="{_color(index)}">'
        f"{escape(name)}</text>"
        for index, name in enumerate(per_step)
    )
    size = f"{2 * WIDTH + 3 * MARGIN} {HEIGHT + 2 * MARGIN}"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{MARGIN}" y="20" font-size="13">{escape(title)}</text>{panels}{names}</svg>\n',
        encoding="utf-8",
    )


def _panel(curves: Curves, number: int, label: str) -> str:
    left, top = MARGIN + number * (WIDTH + MARGIN), MARGIN
    values = [value for points in curves.values() for value in points.values()]
    batches = sorted({batch for points in curves.values() for batch in points})
    across = Axis(min(batches), max(batches), WIDTH)
    up = Axis(min(values) / 1.2, max(values) * 1.2, HEIGHT)
    parts = [
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{left}" y="{top - 8}">{escape(label)}</text>',
    ]
    for batch in batches:
        x = left + across.at(batch)
        parts.append(
            f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{batch}</text>'
        )
    for value in up.ticks():
        y = top + HEIGHT - up.at(value)
        parts.append(
            f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for index, points in enumerate(curves.values()):
        line = " ".join(
            f"{left + across.at(batch):.1f},{top + HEIGHT - up.at(value):.1f}"
            for batch, value in sorted(points.items())
        )
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_color(index)}"/>')
        parts += [
            f'<circle cx="{pair.split(",")[0]}" cy="{pair.split(",")[1]}" r="2.5" '
            f'fill="{_color(index)}"/>'
            for pair in line.split()
        ]
    return "".join(parts)


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]
