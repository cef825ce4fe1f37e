"""The one client of the backend that both pages use.

Every method is synchronous and may be called from several threads. Failures of any kind arrive as
``BackendError`` with a message for the person in front of the page. Voices that can be changed are
under ``library``, long jobs under ``jobs``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import httpx

from ui.connection import CONNECT_TIMEOUT_S, BackendError, Connection, parsed, refusal
from ui.job_client import JobClient
from ui.replies import (
    BackendMetrics,
    Emotions,
    Health,
    RequestFigures,
    RequestsReply,
    SpeechFacts,
    Voice,
    VoicesReply,
)
from ui.speech import FORMATS, Recording, SpeechForm, SpeechResult, SpeechStream
from ui.voice_client import VoiceClient
from ui.wav import wav_file

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "FORMATS",
    "BackendClient",
    "BackendError",
    "Recording",
    "SpeechForm",
    "SpeechResult",
    "SpeechStream",
]


class BackendClient:
    """Talk to one backend. ``close`` it, or use it in a ``with`` block.

    Args:
        base_url: Its address, without a path.
        http: The HTTP client to use, which the caller closes; one of its own that ignores proxies
            is made when None.
        timeout_s: How long to wait for the next piece of an answer.
        api_key: What the backend asks for; empty when it asks for nothing.

    Attributes:
        library: The voices, to add and change.
        jobs: Long texts that are spoken in the background.
    """

    def __init__(
        self,
        base_url: str,
        http: httpx.Client | None = None,
        timeout_s: float = 120.0,
        api_key: str = "",
    ) -> None:
        # The backend is on this machine or in this network: a proxy would only be in the way.
        self._http = http or httpx.Client(trust_env=False)
        self._owns_http = http is None
        self._to = Connection(base_url, self._http, timeout_s, api_key)
        self.library = VoiceClient(self._to)
        self.jobs = JobClient(self._to)

    @property
    def base_url(self) -> str:
        """The backend's address, without a slash at its end."""
        return self._to.base_url

    def with_key(self, api_key: str | None) -> BackendClient:
        """Give a client with a visitor's key that shares this one's connections.

        Args:
            api_key: The key; without one this client is given.
        """
        if not api_key or not api_key.strip():
            return self
        return BackendClient(self.base_url, self._http, self._to.timeout_s, api_key.strip())

    def close(self) -> None:
        """Close the connections that this client opened itself."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> Health:
        """Ask how the backend is. A backend that is still loading answers too."""
        response = self._to.send("GET", "/health", timeout_s=CONNECT_TIMEOUT_S)
        if response.status_code not in {200, 503}:
            raise refusal(response)
        return parsed(Health, response)

    def voices(self) -> tuple[Voice, ...]:
        """List the voices to choose from."""
        return self._to.get(VoicesReply, "/voices").voices

    def emotions(self) -> Emotions:
        """List the markers, in groups."""
        return self._to.get(Emotions, "/emotions")

    def metrics(self) -> BackendMetrics:
        """Give the backend's counters."""
        return self._to.get(BackendMetrics, "/metrics", headers={"Accept": "application/json"})

    def metrics_text(self) -> str:
        """Give the backend's counters in the text form of Prometheus."""
        return self._to.ask("GET", "/metrics", headers={"Accept": "text/plain"}).text

    def recent_requests(self, limit: int = 50) -> tuple[RequestFigures, ...]:
        """Give what the newest finished requests cost, newest first."""
        reply = self._to.get(RequestsReply, "/metrics/requests", params={"limit": limit})
        return reply.requests

    def figures(self, request_id: str) -> RequestFigures:
        """Give what is known of a request once its last byte has left."""
        return self._to.get(RequestFigures, f"/metrics/requests/{request_id}")

    def clear_cache(self, cache: str = "all") -> None:
        """Empty the backend's caches.

        Args:
            cache: ``all``, ``voice_codes``, ``semantic`` or ``prefix_kv``.
        """
        self._to.ask("POST", "/cache/clear", json={"cache": cache})

    def speak(self, form: SpeechForm) -> SpeechResult:
        """Speak and wait for the whole file."""
        response = self._to.ask("POST", "/tts", **form.body(stream="false"))
        return SpeechResult(response.content, SpeechFacts.from_headers(response.headers))

    @contextmanager
    def speak_stream(self, form: SpeechForm) -> Generator[SpeechStream, None, None]:
        """Speak and hand over the samples as they come.

        The form's format is not used: the stream is PCM. Leaving the block ends the request, and
        the backend stops working on it.
        """
        body = replace(form, format="pcm").body(stream="true")
        with self._to.stream("POST", "/tts", **body) as response:
            facts = SpeechFacts.from_headers(response.headers)
            if facts.sample_rate is None:
                raise BackendError(
                    f"{self.base_url}/tts sent sound without X-Sample-Rate: is it another server?"
                )
            yield SpeechStream(facts, facts.sample_rate, response.iter_bytes())

    def whole_file(self, form: SpeechForm, facts: SpeechFacts, pcm: bytes) -> bytes:
        """Give the file, in the form's format, of a take that has come as a stream.

        A WAV file is made of the samples. The other encoders are the backend's: the seed names the
        very take, and the codes that were just made are in its cache, so only the codec and the
        encoder have to run again.

        Args:
            form: What was asked for.
            facts: What came with the stream.
            pcm: The stream's samples.
        """
        if form.format == "wav":
            assert facts.sample_rate is not None, "speak_stream sees to it"
            return wav_file(pcm, facts.sample_rate)
        return self.speak(replace(form, seed=facts.seed)).audio

    def late_facts(self, facts: SpeechFacts) -> SpeechFacts:
        """Complete the facts of a stream with what is known only after its end."""
        figures = self.figures(facts.request_id)
        return replace(
            facts,
            latency_ms=figures.latency_ms,
            rtf=figures.rtf,
            audio_duration_s=figures.audio_duration_s,
            cache=figures.cache or facts.cache,
        )
