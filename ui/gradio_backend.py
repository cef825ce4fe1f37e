"""What the page shows of the backend: whether it answers, what it offers, what it does."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING

from ui import cards
from ui import gradio_views as views
from ui.connection import BackendError
from ui.gradio_views import BackendView
from ui.quiet_gradio import gr

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.replies import Health


class BackendHandlers:
    """The backend's state; serves all visitors.

    Args:
        client: Of the backend.
    """

    def __init__(self, client: BackendClient) -> None:
        self._client = client

    def refresh(self, voice: str | None, key: str | None, seen: Health | None) -> BackendView:
        """Look how the backend is, and, if it is another than before, what it offers.

        Args:
            voice: The voice that is chosen.
            key: The visitor's API key.
            seen: How the backend was when it was asked last; None when it was not ready.
        """
        same = views.SAME
        client = self._client.with_key(key)
        try:
            health = client.health()
            pill = cards.health_html(health)
            if not health.is_ready:
                return BackendView(pill, same, same, same, same, None)
            if seen is not None and health.is_later_look_at(seen):
                return BackendView(pill, same, same, same, same, health)
            voices = views.voice_choices(client.voices(), voice)
            markers = views.marker_values(client.emotions())
        except BackendError as error:
            if error.asks_for_key:
                pill = cards.pill_html("busy", "Needs an API key", "")
                return BackendView(pill, same, same, same, gr.update(visible=True), None)
            return BackendView(cards.health_html(None), same, same, same, same, None)
        return BackendView(pill, voices, markers, markers, same, health)

    def system(self, key: str | None) -> tuple[str, str]:
        """Give the backend's facts and what it does now."""
        client = self._client.with_key(key)
        try:
            health, metrics = client.health(), client.metrics()
        except BackendError as error:
            return cards.message_html(error.message, "error"), ""
        notes = "".join(cards.message_html(note) for note in health.notes)
        facts = cards.cards_html(cards.system_figures(health), "The backend") + notes
        return facts, cards.cards_html(cards.load_figures(metrics, health), "What it does")

    def recent(self, key: str | None) -> str:
        """Give the newest requests as a table."""
        try:
            requests = self._client.with_key(key).recent_requests(20)
        except BackendError as error:
            return cards.message_html(error.message, "error")
        return cards.requests_html(requests)

    def metrics_text(self, key: str | None) -> str:
        """Give the counters as Prometheus reads them."""
        try:
            return self._client.with_key(key).metrics_text()
        except BackendError as error:
            return error.message

    def clear_cache(self, cache: str, key: str | None) -> str:
        """Empty the backend's caches."""
        try:
            self._client.with_key(key).clear_cache(cache)
        except BackendError as error:
            return cards.message_html(error.message, "error")
        return cards.message_html("The caches are empty." if cache == "all" else "Emptied.", "good")
