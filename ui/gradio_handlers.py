"""What the controls of the Gradio page do. No layout here, and no network but the client's."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ui import cards
from ui import gradio_views as views
from ui.client import BackendError, Recording, SpeechForm
from ui.gradio_views import BackendView, SpeakView
from ui.takes import LiveTake, TakeShelf

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ui.client import BackendClient
    from ui.replies import Health, SpeechFacts

PULL_TIMEOUT_S = 10.0
PROGRESS_INTERVAL_S = 0.25
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Controls:
    """Values of the page's controls, in the order in which the page lists them.

    Attributes:
        recording: Path of the reference recording, or None.
        use_own_sampling: True sends the sampling values; False leaves them to the model.
        seed: Digits; empty draws one.
    """

    text: str | None
    voice: str | None
    recording: str | None
    transcript: str | None
    use_own_sampling: bool
    temperature: float
    top_p: float
    top_k: float
    repetition_penalty: float
    max_new_tokens: float
    seed: str | None
    file_format: str

    def form(self) -> SpeechForm:
        """Give the form to send.

        Raises:
            BackendError: The text is empty or the seed is no whole number in range.
        """
        if not self.text or not self.text.strip():
            raise BackendError("Type something to say first.")
        form = SpeechForm(
            text=self.text,
            voice=self.voice or None,
            recording=_read_recording(self.recording),
            transcript=(self.transcript or "").strip() or None,
            seed=_read_seed(self.seed),
            format=self.file_format,
        )
        if not self.use_own_sampling:
            return form
        return replace(
            form,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=int(self.top_k),
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=int(self.max_new_tokens),
        )


class PageHandlers:
    """The page's behavior. One object serves all visitors; it keeps only takes on their way.

    Args:
        client: Of the backend.
        files: Folder for the files that are offered for download; Gradio copies them from there.
    """

    def __init__(self, client: BackendClient, files: Path) -> None:
        self._client = client
        self._files = files
        self._shelf = TakeShelf()

    def speak(self, *values: Any) -> Generator[SpeakView, None, None]:
        """Speak, giving the page something to show all along.

        Args:
            values: Of the fields of ``Controls``, in order.
        """
        try:
            form = Controls(*values).form()
            yield from self._spoken(form)
        except BackendError as error:
            yield views.failed_view(error)

    def _spoken(self, form: SpeechForm) -> Iterator[SpeakView]:
        yield views.waiting_view()
        with self._client.speak_stream(form) as stream:
            take = LiveTake(stream.sample_rate)
            self._shelf.add(take)
            try:
                yield views.live_view(take, stream.facts)
                shown_at = time.monotonic()
                for pcm in stream:
                    if take.is_finished:  # by the Stop button
                        return
                    take.append(pcm)
                    if time.monotonic() - shown_at >= PROGRESS_INTERVAL_S:
                        shown_at = time.monotonic()
                        yield views.progress_view(take)
            finally:
                # Also when the visitor stops or leaves: Gradio then closes this generator.
                take.finish()
        yield from self._finished(form, take, stream.facts)

    def _finished(
        self, form: SpeechForm, take: LiveTake, facts: SpeechFacts
    ) -> Iterator[SpeakView]:
        facts = self._client.late_facts(facts)
        shown = cards.speech_figures(facts, self._client.health().gpus)
        figures = cards.cards_html(shown, "Figures of the last take")
        if form.format != "wav":
            yield views.encoding_view(figures, form.format)
        file = self._files / views.file_name(form, facts)
        file.write_bytes(self._client.whole_file(form, facts, take.pcm))
        yield views.done_view(figures, file, take, facts.warning)

    def stop(self, player: str) -> SpeakView:
        """End the take in the player; the page cancels ``speak`` beside it.

        Args:
            player: What the player was told last.
        """
        take = self._shelf.find(str(json.loads(player).get("take")))
        if take is not None:
            take.finish()
        return views.stopped_view()

    def pull(self, request: Sequence[Any]) -> dict[str, Any]:
        """Give the browser's player what it does not have yet; waits until there is something.

        Args:
            request: Id of the take, and the number of bytes that the player has.

        Returns:
            ``pcm``: base64 of 16-bit samples, possibly none; ``isLast``: whether the take is whole.
        """
        take_id, offset = request
        take = self._shelf.find(str(take_id))
        if take is None:
            return {"pcm": "", "isLast": True}
        pcm, is_last = take.read(max(0, int(offset)), PULL_TIMEOUT_S)
        return {"pcm": base64.b64encode(pcm).decode("ascii"), "isLast": is_last}

    def refresh(self, voice: str | None, seen: Health | None) -> BackendView:
        """Look how the backend is, and, if it is another than before, what it offers.

        Args:
            voice: The voice that is chosen.
            seen: How the backend was when it was asked last; None when it was not ready.
        """
        same = views.SAME
        try:
            health = self._client.health()
            pill = cards.health_html(health)
            if not health.is_ready:
                return BackendView(pill, same, same, same, None)
            if seen is not None and health.is_later_look_at(seen):
                return BackendView(pill, same, same, same, health)
            voices = views.voice_choices(self._client.voices(), voice)
            markers = views.marker_values(self._client.emotions())
        except BackendError:
            return BackendView(cards.health_html(None), same, same, same, None)
        return BackendView(pill, voices, markers, markers, health)

    def system(self) -> tuple[str, str]:
        """Give the facts about the backend and its metrics."""
        try:
            health, metrics = self._client.health(), self._client.metrics()
        except BackendError as error:
            return cards.message_html(error.message, "error"), ""
        return cards.cards_html(cards.system_figures(health), "The backend"), metrics

    def clear_cache(self) -> str:
        """Empty the backend's caches."""
        try:
            self._client.clear_cache()
        except BackendError as error:
            return cards.message_html(error.message, "error")
        return cards.message_html("The caches are empty.", "good")


def _read_recording(path: str | None) -> Recording | None:
    if path is None:
        return None
    file = Path(path)
    return Recording(file.name, file.read_bytes())


def _read_seed(typed: str | None) -> int | None:
    digits = (typed or "").strip()
    if not digits:
        return None
    if not (digits.isascii() and digits.isdecimal() and int(digits) <= MAX_SEED):
        raise BackendError(f"The seed must be a whole number from 0 to {MAX_SEED}, or empty.")
    return int(digits)
