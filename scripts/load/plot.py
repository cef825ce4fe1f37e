"""The figures of several levels as a picture (SVG), drawn without a library."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Level = dict[str, Any]

WIDTH, HEIGHT, MARGIN = 720, 300, 56
_TTFA_LINES = (("p50", "#1b7f5c"), ("p95", "#b7791f"), ("p99", "#b02a37"))


def svg_of(levels: Sequence[Level], title: str) -> str:
    """Draw time to first audio, and underruns beside throughput, over the number of listeners.

    Levels that have a ``case`` go by that name instead, and no line joins them.
    """
    ttfa = _panel(
        levels,
        f"{title}: time to first audio, ms",
        [(name, color, _ttfa_ms(name)) for name, color in _TTFA_LINES],
        0,
    )
    flow = _panel(
        levels,
        "seconds of speech per second; underruns per request",
        [
            ("speech s/s", "#2456a6", lambda level: level["audio_s_per_s"] or 0.0),
            ("underruns", "#b02a37", lambda level: level["underruns"] / max(1, level["completed"])),
        ],
        HEIGHT,
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{2 * HEIGHT}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{ttfa}{flow}</svg>\n'
    )


def _ttfa_ms(name: str) -> Callable[[Level], float]:
    return lambda level: 1000 * (level["ttfa_s"][name] or 0.0)


def _name_of(level: Level) -> str:
    return str(level.get("case", level["streams"]))


def _panel(
    levels: Sequence[Level],
    title: str,
    lines: Sequence[tuple[str, str, Callable[[Level], float]]],
    top: int,
) -> str:
    highest = max((value(level) for _, _, value in lines for level in levels), default=0.0) or 1.0
    step = (WIDTH - 2 * MARGIN) / max(1, len(levels) - 1)
    floor = top + HEIGHT - MARGIN

    def place(idx: int, value: float) -> tuple[float, float]:
        return MARGIN + idx * step, floor - value / highest * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<text x="{MARGIN}" y="{top + 24}" font-size="14">{escape(title)}</text>',
        f'<line x1="{MARGIN}" y1="{floor}" x2="{WIDTH - MARGIN}" y2="{floor}" stroke="#888"/>',
        f'<text x="{MARGIN - 6}" y="{top + MARGIN}" text-anchor="end">{highest:.3g}</text>',
        f'<text x="{MARGIN - 6}" y="{floor}" text-anchor="end">0</text>',
    ]
    for idx, level in enumerate(levels):
        x, _ = place(idx, 0.0)
        parts.append(
            f'<text x="{x}" y="{floor + 18}" text-anchor="middle">{escape(_name_of(level))}</text>'
        )
    for number, (name, color, value) in enumerate(lines):
        points = [place(idx, value(level)) for idx, level in enumerate(levels)]
        if not any("case" in level for level in levels):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
            )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in points]
        x = MARGIN + 110 * number
        parts.append(f'<text x="{x}" y="{top + HEIGHT - 10}" fill="{color}">{escape(name)}</text>')
    return "".join(parts)
