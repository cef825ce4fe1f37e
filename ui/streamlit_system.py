"""The Streamlit page's Dashboard and System tabs."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import streamlit as st

from ui import cards
from ui.connection import BackendError
from ui.streamlit_state import note_look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ui.client import BackendClient
    from ui.replies import BackendMetrics, Health, RequestFigures
    from ui.streamlit_state import Backend, BackendState, Look

LIVE_INTERVAL_S = 3.0
NUM_REQUESTS = 60
HEIGHT_PX = 210
CARDS_PER_ROW = 4
AMBER, TEAL = "#f59e0b", "#0f9d8d"
CACHES = {
    "All": "all",
    "Recordings": "voice_codes",
    "Spoken texts": "semantic",
    "Voices' prompts": "prefix_kv",
}


@st.fragment(run_every=LIVE_INTERVAL_S)
def dashboard_tab(backend: Backend) -> None:
    """Draw what the backend does; this part draws itself again by itself."""
    try:
        with backend.open() as client:
            health, metrics = client.health(), client.metrics()
            requests = client.recent_requests(NUM_REQUESTS)
    except BackendError as error:
        st.error(error.message)
        return
    seen = note_look(time.time(), health, metrics)
    _metric_cards(metrics, health, seen)
    times, queue = st.columns(2)
    with times:
        _times_chart(requests)
    with queue:
        _look_chart("Queue", seen, {"Waiting": "waiting", "Speaking": "running"})
    hits, gpu = st.columns(2)
    with hits:
        _look_chart("Cache hits, % since the start", seen, {"Hits": "hit_percent"})
    with gpu:
        _look_chart("GPU", seen, {"Busy, %": "gpu_percent", "Memory, GiB": "gpu_gib"})
    with st.expander("The newest requests"):
        st.html(cards.requests_html(requests[:20]))


def _metric_cards(metrics: BackendMetrics, health: Health, seen: Sequence[Look]) -> None:
    ttfa, total = metrics.spread("ttfa_s"), metrics.spread("total_s")
    shown = [
        ("Requests", str(metrics.requests.total), f"{metrics.requests.in_progress} in progress"),
        ("First sound", cards.seconds(ttfa.p50), f"95 %: {cards.seconds(ttfa.p95)}"),
        ("Latency", cards.seconds(total.p50), f"95 %: {cards.seconds(total.p95)}"),
        ("RTF", cards.ratio(metrics.spread("rtf").p50), "median"),
        ("Queue", str(seen[-1].waiting), f"{seen[-1].running} speaking"),
    ]
    if seen[-1].hit_percent is not None:
        shown.append(("Cache hits", f"{seen[-1].hit_percent:.0f} %", "since the start"))
    shown.append(("Speech made", cards.long_time(metrics.audio_s), "since the start"))
    shown.append(("Up for", cards.long_time(health.uptime_s or 0), f"version {health.version}"))
    shown += [cards.gpu_card(gpu) for gpu in health.gpus]
    for start in range(0, len(shown), CARDS_PER_ROW):
        row = shown[start : start + CARDS_PER_ROW]
        columns = st.columns(CARDS_PER_ROW)
        for column, (label, value, note) in zip(columns, row, strict=False):
            column.metric(label, value, note, delta_color="off", delta_arrow="off", border=True)


def _times_chart(requests: Sequence[RequestFigures]) -> None:
    st.markdown("**Latest requests**, ms")
    spoken = [one for one in reversed(requests) if one.latency_ms is not None]
    if not spoken:
        st.caption("Nothing has been spoken yet.")
        return
    st.line_chart(
        {
            "Request": list(range(1, len(spoken) + 1)),
            "First sound": [one.ttfa_ms for one in spoken],
            "Latency": [one.latency_ms for one in spoken],
        },
        x="Request",
        y=["First sound", "Latency"],
        color=[AMBER, TEAL],
        height=HEIGHT_PX,
    )


def _look_chart(title: str, seen: Sequence[Look], series: dict[str, str]) -> None:
    st.markdown(f"**{title}**")
    values = {label: [getattr(look, field) for look in seen] for label, field in series.items()}
    if all(value is None for line in values.values() for value in line):
        st.caption("Nothing to show: the backend does not report it.")
        return
    if not any(value for line in values.values() for value in line):
        st.caption("Zero all the time that this page has looked.")  # an axis of zeros is no chart
        return
    now = seen[-1].at
    st.line_chart(
        {"Seconds": [round(look.at - now, 1) for look in seen], **values},
        x="Seconds",
        y=list(values),
        color=[AMBER, TEAL] if len(values) > 1 else TEAL,
        height=HEIGHT_PX,
    )


def system_tab(client: BackendClient, state: BackendState) -> None:
    """Draw the backend's facts, its counters and the button that clears its caches."""
    if state.health is None or state.problem:
        st.error(state.problem)
        return
    st.html(cards.cards_html(cards.system_figures(state.health), "The backend"))
    for note in state.health.notes:
        st.caption(note)
    st.markdown(f"Interface for programs: [{client.base_url}/docs]({client.base_url}/docs)")
    st.subheader("Caches")
    try:
        metrics = client.metrics()
        shown = [
            card
            for card in cards.load_figures(metrics, state.health)
            if card[0].startswith("Cache")
        ]
        st.html(cards.cards_html(shown, "Caches"))
        _clear(client)
        with st.expander("Counters, as Prometheus reads them"):
            if st.button("Read them", key="metrics"):
                st.code(client.metrics_text(), language=None)
    except BackendError as error:
        st.error(error.message)


def _clear(client: BackendClient) -> None:
    chosen = st.selectbox("Cache to empty", list(CACHES), key="cache")
    if st.button("Clear it", key="clear"):
        client.clear_cache(CACHES[chosen])
        st.success("The caches are empty." if chosen == "All" else "Emptied.")
