"""What the Speak tab of the Gradio page does. No layout here, and no network but the client's."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from ui import gradio_views as views
from ui.connection import BackendError
from ui.gradio_controls import Controls
from ui.progress import Progress
from ui.takes import LiveTake, TakeShelf

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ui.client import BackendClient
    from ui.files import FileShelf
    from ui.gradio_views import SpeakView
    from ui.replies import SpeechFacts
    from ui.speech import SpeechForm

PULL_TIMEOUT_S = 10.0
PROGRESS_INTERVAL_S = 0.25


class SpeakHandlers:
    """Speaking. One object serves all visitors; it keeps only takes on their way.

    Args:
        client: Of the backend.
        files: Where finished files are offered for download.
    """

    def __init__(self, client: BackendClient, files: FileShelf) -> None:
        self._client = client
        self._files = files
        self._shelf = TakeShelf()

    def speak(self, *values: Any) -> Generator[SpeakView, None, None]:
        """Speak, giving the page something to show all along.

        Args:
            values: Of the fields of ``Controls``, in order.
        """
        controls = Controls(*values)
        try:
            yield from self._spoken(self._client.with_key(controls.api_key), controls.form())
        except BackendError as error:
            yield views.failed_view(error)

    def _spoken(self, client: BackendClient, form: SpeechForm) -> Iterator[SpeakView]:
        yield views.waiting_view()
        progress = Progress(form.text, form.speed or 1.0)
        with client.speak_stream(form) as stream:
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
                        yield views.progress_view(take, stream.facts, progress)
            finally:
                # Also when the visitor stops or leaves: Gradio then closes this generator.
                take.finish()
        yield from self._finished(client, form, take, stream.facts)

    def _finished(
        self, client: BackendClient, form: SpeechForm, take: LiveTake, facts: SpeechFacts
    ) -> Iterator[SpeakView]:
        facts = client.late_facts(facts)
        gpus = client.health().gpus
        if form.format != "wav":
            yield views.encoding_view(facts, gpus, form.format)
        content = client.whole_file(form, facts, take.pcm)
        file = self._files.put(views.file_name(form, facts), content)
        yield views.done_view(form, facts, gpus, take, file)

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
