"""Draw training curves as an SVG: held-out figures over time, one panel per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.pocket.curves import read_curves

if TYPE_CHECKING:
    from pathlib import Path

_WIDTH, _HEIGHT, _MARGIN = 640, 200, 46
_COLORS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#9467bd")
_SHOWN = (
    "mel", "magnitude", "phone_accuracy", "semitones_off", "ear_new", "slow", "fast", "accuracy",
)  # fmt: skip


def plot_curves(files: list[Path], out: Path) -> None:
    """Write one SVG with a panel for each curves file."""
    panels = [_panel(path, number) for number, path in enumerate(files)]
    height = (_HEIGHT + _MARGIN) * len(files) + _MARGIN
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 2 * _MARGIN} {height}" '
        f'font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n',
        encoding="utf-8",
    )


def _panel(path: Path, number: int) -> str:
    rows = [row for row in read_curves(path) if row["kind"] == "held_out"]
    top = number * (_HEIGHT + _MARGIN) + _MARGIN
    names = [name for name in _SHOWN if rows and name in rows[0]]
    last_s = max((float(row["spent_s"]) for row in rows), default=1.0) or 1.0
    parts = [
        f'<text x="{_MARGIN}" y="{top - 8}">{path.parent.name}/{path.name}, {last_s:.0f} s</text>'
        f'<rect x="{_MARGIN}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" '
        f'stroke="#ccc"/>'
    ]
    for color, name in zip(_COLORS, names, strict=False):
        values = [float(row[name]) for row in rows]
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        points = " ".join(
            f"{_MARGIN + float(row['spent_s']) / last_s * _WIDTH:.1f},"
            f"{top + _HEIGHT - (value - low) / span * _HEIGHT:.1f}"
            for row, value in zip(rows, values, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
        place = _MARGIN + 8 + names.index(name) * 130
        parts.append(
            f'<text x="{place}" y="{top + 14}" fill="{color}">{name} {values[0]:.3g} to '
            f"{values[-1]:.3g}</text>"
        )
    return "".join(parts)
