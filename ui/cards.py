"""Pieces of HTML that both pages show: metric cards, the backend's state, messages.

Everything that comes from outside is escaped here and nowhere else.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ui.replies import BackendMetrics, Gpu, Health, RequestFigures, SpeechFacts

UNKNOWN = "—"
CACHE_WORDS = {"hit": "hit", "miss": "new"}


def milliseconds(value: float | None) -> str:
    """Write a duration given in ms so that it is easy to read."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def ratio(value: float | None) -> str:
    """Write a ratio."""
    return UNKNOWN if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """Write a share 0..1 in percent."""
    return UNKNOWN if value is None else f"{value:.0%}".replace("%", " %")


def speech_figures(facts: SpeechFacts, gpus: Sequence[Gpu] = ()) -> list[tuple[str, str, str]]:
    """Give ``(label, value, explanation)`` for every card of a take."""
    speed = "" if not facts.rtf else f"{1 / facts.rtf:.1f} x real time"
    length = UNKNOWN if facts.audio_duration_s is None else f"{facts.audio_duration_s:.2f} s"
    cards = [
        ("First sound", milliseconds(facts.ttfa_ms), "to the first audio"),
        ("Latency", milliseconds(facts.latency_ms), "to the last sound"),
        ("RTF", ratio(facts.rtf), speed or "compute over audio time"),
        ("Duration", length, facts.voice_words or "of the speech"),
        ("Cache", CACHE_WORDS.get(facts.cache, facts.cache) or UNKNOWN, "for this text"),
        ("Seed", UNKNOWN if facts.seed is None else str(facts.seed), "repeats this take"),
    ]
    return cards + [gpu_card(gpu) for gpu in gpus]


def live_figures(
    facts: SpeechFacts, elapsed_s: float, spoken_s: float
) -> list[tuple[str, str, str]]:
    """Give the cards of a take that is being made."""
    return [
        ("First sound", milliseconds(facts.ttfa_ms), "to the first audio"),
        ("Elapsed", f"{elapsed_s:.1f} s", "since the request"),
        ("Speed", f"{spoken_s / max(elapsed_s, 0.001):.1f} x", "real time, so far"),
        ("Spoken", f"{spoken_s:.1f} s", facts.voice_words or "so far"),
        ("Cache", CACHE_WORDS.get(facts.cache, facts.cache) or UNKNOWN, "for this text"),
        ("Seed", UNKNOWN if facts.seed is None else str(facts.seed), "repeats this take"),
    ]


def load_figures(metrics: BackendMetrics, health: Health) -> list[tuple[str, str, str]]:
    """Give the cards of what the backend has done and does."""
    ttfa, total = metrics.spread("ttfa_s"), metrics.spread("total_s")
    queue = health.queue
    cards = [
        ("Requests", str(metrics.requests.total), f"{metrics.requests.in_progress} in progress"),
        ("First sound", seconds(ttfa.p50), f"median; {seconds(ttfa.p95)} at 95 %"),
        ("Latency", seconds(total.p50), f"median; {seconds(total.p95)} at 95 %"),
        ("RTF", ratio(metrics.spread("rtf").p50), "median"),
        ("Speech made", long_time(metrics.audio_s), "since the start"),
    ]
    if queue is not None:
        cards.append(("Queue", str(queue.waiting), f"{queue.running} of {queue.max_running} busy"))
    for name, cache in metrics.caches.items():
        label = f"Cache: {name.replace('_', ' ')}"
        note = f"hits; {cache.entries} entries, {cache.size_bytes / 2**20:.2g} MiB"
        cards.append((label, share(cache.hit_rate), note))
    return cards


def seconds(value: float | None) -> str:
    """Write a duration given in s so that it is easy to read."""
    return milliseconds(None if value is None else value * 1000)


def long_time(value_s: float) -> str:
    """Write a time that may be seconds or days."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if value_s >= 2 * size:
            return f"{value_s / size:.1f} {name}"
    return f"{value_s:.0f} s"


def system_figures(health: Health) -> list[tuple[str, str, str]]:
    """Give the cards of the backend itself."""
    rate = UNKNOWN if health.sample_rate is None else f"{health.sample_rate / 1000:g} kHz"
    uptime = UNKNOWN if health.uptime_s is None else long_time(health.uptime_s)
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
        return pill_html("down", "Backend does not answer", "")
    facts = " · ".join(part for part in (health.model, health.device) if part)
    if health.is_ready:
        return pill_html("ready", "Ready", facts)
    return pill_html("busy", health.detail or health.status.capitalize(), facts)


def message_html(text: str, kind: str = "info") -> str:
    """Give the line under the buttons.

    Args:
        text: What happened; empty clears the line.
        kind: ``info``, ``good`` or ``error``.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="message message-{kind}" role="{role}">{escape(text)}</p>'


def progress_html(text: str, fraction: float | None) -> str:
    """Give the line under the buttons while something is made.

    Args:
        text: What happens.
        fraction: How much is done, 0..1; None when nobody knows.
    """
    value = "" if fraction is None else f' value="{fraction:.3f}"'
    return (
        f'<div class="message message-progress"><p role="status">{escape(text)}</p>'
        f'<progress max="1"{value} aria-label="Progress"></progress></div>'
    )


def download_html(address: str, name: str, words: str) -> str:
    """Give the link that downloads a file."""
    target = f'href="{escape(address)}" download="{escape(name)}"'
    return f'<a class="download" {target}>{escape(words)}</a>'


def pill_html(state: str, words: str, facts: str) -> str:
    """Give a state in a word or two.

    Args:
        state: ``ready``, ``busy`` or ``down``.
        words: Its name.
        facts: What more is known.
    """
    tail = f'<span class="pill-facts">{escape(facts)}</span>' if facts else ""
    return (
        f'<p class="pill pill-{state}" role="status"><i aria-hidden="true"></i>'
        f"<span>{escape(words)}</span>{tail}</p>"
    )


def requests_html(requests: Sequence[RequestFigures]) -> str:
    """Give a table of requests, newest first."""
    if not requests:
        return message_html("Nothing has been spoken since the backend was started.")
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _request_cells(one)) + "</tr>"
        for one in requests
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in _REQUEST_COLUMNS)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="The newest requests">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


_REQUEST_COLUMNS = ("Time", "Outcome", "Voice", "Speech", "First sound", "Latency", "RTF", "Cache")


def _request_cells(one: RequestFigures) -> tuple[str, ...]:
    begun = UNKNOWN
    if one.started_at is not None:
        begun = datetime.fromtimestamp(one.started_at).strftime("%H:%M:%S")  # noqa: DTZ006 - the reader's clock
    return (
        begun,
        one.status,
        one.voice or UNKNOWN,
        seconds(one.audio_duration_s),
        milliseconds(one.ttfa_ms),
        milliseconds(one.latency_ms),
        ratio(one.rtf),
        CACHE_WORDS.get(one.cache, one.cache) or UNKNOWN,
    )
