"""Pieces of HTML that both pages show: metric cards, the backend's state, messages.

Everything that comes from outside is escaped here and nowhere else.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ui.replies import Gpu, Health, SpeechFacts

UNKNOWN = "—"
CACHE_WORDS = {"hit": "hit", "miss": "new"}


def milliseconds(value: float | None) -> str:
    """Write a duration given in ms so that it is easy to read."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def speech_figures(facts: SpeechFacts, gpus: Sequence[Gpu] = ()) -> list[tuple[str, str, str]]:
    """Give ``(label, value, explanation)`` for every card of a take."""
    rtf = UNKNOWN if facts.rtf is None else f"{facts.rtf:.2f}"
    speed = "" if not facts.rtf else f"{1 / facts.rtf:.1f} x real time"
    length = UNKNOWN if facts.audio_duration_s is None else f"{facts.audio_duration_s:.2f} s"
    cards = [
        ("First sound", milliseconds(facts.ttfa_ms), "to the first audio"),
        ("Latency", milliseconds(facts.latency_ms), "to the last sound"),
        ("RTF", rtf, speed or "compute over audio time"),
        ("Duration", length, facts.voice_words or "of the speech"),
        ("Cache", CACHE_WORDS.get(facts.cache, facts.cache) or UNKNOWN, "for this text"),
        ("Seed", UNKNOWN if facts.seed is None else str(facts.seed), "repeats this take"),
    ]
    return cards + [gpu_card(gpu) for gpu in gpus]


def system_figures(health: Health) -> list[tuple[str, str, str]]:
    """Give the cards of the backend itself."""
    rate = UNKNOWN if health.sample_rate is None else f"{health.sample_rate / 1000:g} kHz"
    uptime = UNKNOWN if health.uptime_s is None else f"{health.uptime_s / 60:.0f} min"
    cards = [
        ("Model", health.model or UNKNOWN, health.status),
        ("Device", health.device or UNKNOWN, health.precision),
        ("Sample rate", rate, "of the codec"),
        ("Up for", uptime, f"version {health.version}" if health.version else ""),
    ]
    return cards + [gpu_card(gpu) for gpu in health.gpus]


def gpu_card(gpu: Gpu) -> tuple[str, str, str]:
    """Give the card of a graphics card."""
    used = UNKNOWN
    if gpu.memory_used_mib is not None and gpu.memory_total_mib is not None:
        used = f"{gpu.memory_used_mib / 1024:.1f} / {gpu.memory_total_mib / 1024:.0f} GiB"
    load = "" if gpu.utilization_percent is None else f" · {gpu.utilization_percent:.0f} % busy"
    return "GPU", used, gpu.name + load


def cards_html(cards: Sequence[tuple[str, str, str]], title: str) -> str:
    """Lay out cards in a row that wraps; ``title`` is for screen readers."""
    items = "".join(
        f'<div class="card"><dt>{escape(label)}</dt><dd>{escape(value)}</dd>'
        f"<small>{escape(note)}</small></div>"
        for label, value, note in cards
    )
    return f'<dl class="cards" aria-label="{escape(title)}">{items}</dl>'


def health_html(health: Health | None) -> str:
    """Give the pill that says how the backend is; None when it does not answer."""
    if health is None:
        return _pill("down", "Backend does not answer", "")
    facts = " · ".join(part for part in (health.model, health.device) if part)
    if health.is_ready:
        return _pill("ready", "Ready", facts)
    return _pill("busy", health.detail or health.status.capitalize(), facts)


def message_html(text: str, kind: str = "info") -> str:
    """Give the line under the buttons.

    Args:
        text: What happened; empty clears the line.
        kind: ``info``, ``good`` or ``error``.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="message message-{kind}" role="{role}">{escape(text)}</p>'


def _pill(state: str, words: str, facts: str) -> str:
    tail = f'<span class="pill-facts">{escape(facts)}</span>' if facts else ""
    return (
        f'<p class="pill pill-{state}" role="status"><i aria-hidden="true"></i>'
        f"<span>{escape(words)}</span>{tail}</p>"
    )
