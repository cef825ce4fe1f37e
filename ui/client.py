"""The one client of the backend that both pages use.

Every method is synchronous and may be called from several threads. Failures of any kind arrive as
``BackendError`` with a message for the person in front of the page.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from ui.replies import (
    Emotions,
    ErrorReply,
    Health,
    RequestFigures,
    SpeechFacts,
    Voice,
    VoicesReply,
)
from ui.wav import BYTES_PER_SAMPLE, wav_file

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ReplyT = TypeVar("ReplyT", bound=BaseModel)

CONNECT_TIMEOUT_S = 5.0
FORMATS = ("wav", "mp3", "flac", "opus")
"""What the pages offer for download."""


class BackendError(Exception):
    """The backend could not be reached or refused.

    Args:
        message: What happened and what to do, for users.
        status: HTTP status, or None when there was no answer.
        request_id: Names the request in the backend's log.
    """

    def __init__(
        self, message: str, status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Recording:
    """A reference recording to speak like.

    Attributes:
        name: File name.
        content: The file's bytes, in any format that the backend reads.
    """

    name: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechForm:
    """What to say and how; None leaves the choice to the backend.

    Attributes:
        text: What to say, markers in parentheses included.
        voice: Name of a voice; not sent when there is a recording.
        recording: Reference recording.
        transcript: What is said in the recording.
        seed: Repeats an earlier take.
    """

    text: str
    voice: str | None = None
    recording: Recording | None = None
    transcript: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    format: str = "wav"

    def fields(self) -> dict[str, str]:
        """Give the form fields to send."""
        given = {
            "text": self.text,
            "voice": None if self.recording else self.voice,
            "prompt_text": (self.transcript or None) if self.recording else None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "format": self.format,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SpeechResult:
    """A whole piece of speech.

    Attributes:
        audio: The file in the format that was asked for.
        facts: What the backend said about it.
    """

    audio: bytes
    facts: SpeechFacts


class SpeechStream:
    """Speech while it is made: iterate over it once.

    Attributes:
        facts: What is known with the first sound.
        sample_rate: Hz.

    Yields:
        Mono 16-bit little-endian PCM, whole samples.
    """

    def __init__(self, facts: SpeechFacts, sample_rate: int, chunks: Iterator[bytes]) -> None:
        self.facts = facts
        self.sample_rate = sample_rate
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        for piece in self._chunks:
            joined = rest + piece
            whole = len(joined) - len(joined) % BYTES_PER_SAMPLE
            rest = joined[whole:]
            if whole:
                yield joined[:whole]


class BackendClient:
    """Talk to one backend. ``close`` it, or use it in a ``with`` block.

    Args:
        base_url: Its address, without a path.
        http: The HTTP client to use, which the caller closes; one of its own that ignores proxies
            is made when None.
        timeout_s: How long to wait for the next piece of an answer.
    """

    def __init__(
        self, base_url: str, http: httpx.Client | None = None, timeout_s: float = 120.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        # The backend is on this machine or in this network: a proxy would only be in the way.
        self._http = http or httpx.Client(trust_env=False)
        self._owns_http = http is None

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
        response = self._send("GET", "/health", timeout_s=CONNECT_TIMEOUT_S)
        if response.status_code not in {200, 503}:
            raise self._refusal(response)
        return _parsed(Health, response)

    def voices(self) -> tuple[Voice, ...]:
        """List the voices to choose from."""
        return self._get(VoicesReply, "/voices").voices

    def emotions(self) -> Emotions:
        """List the markers, in groups."""
        return self._get(Emotions, "/emotions")

    def metrics(self) -> str:
        """Give the backend's metrics in the text form of Prometheus."""
        return self._checked(self._send("GET", "/metrics")).text

    def figures(self, request_id: str) -> RequestFigures:
        """Give what is known of a request once its last byte has left."""
        return self._get(RequestFigures, f"/metrics/requests/{request_id}")

    def clear_cache(self) -> None:
        """Empty the backend's caches."""
        self._checked(self._send("POST", "/cache/clear"))

    def speak(self, form: SpeechForm) -> SpeechResult:
        """Speak and wait for the whole file."""
        response = self._checked(self._send("POST", "/tts", **_body(form, stream=False)))
        return SpeechResult(response.content, SpeechFacts.from_headers(response.headers))

    @contextmanager
    def speak_stream(self, form: SpeechForm) -> Generator[SpeechStream, None, None]:
        """Speak and hand over the samples as they come.

        The form's format is not used: the stream is PCM. Leaving the block ends the request, and
        the backend stops working on it.
        """
        body = _body(replace(form, format="pcm"), stream=True)
        url = self.base_url + "/tts"
        with (
            self._readable_failures(),
            self._http.stream("POST", url, timeout=self._timeout, **body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise self._refusal(response)
            facts = SpeechFacts.from_headers(response.headers)
            if facts.sample_rate is None:
                raise BackendError(f"{url} sent sound without X-Sample-Rate: is it another server?")
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

    def _get(self, kind: type[ReplyT], path: str) -> ReplyT:
        return _parsed(kind, self._checked(self._send("GET", path)))

    def _send(
        self, method: str, path: str, timeout_s: float | None = None, **body: Any
    ) -> httpx.Response:
        timeout = self._timeout if timeout_s is None else httpx.Timeout(timeout_s)
        with self._readable_failures():
            return self._http.request(method, self.base_url + path, timeout=timeout, **body)

    @contextmanager
    def _readable_failures(self) -> Generator[None, None, None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise BackendError(
                f"The backend at {self.base_url} does not answer. Start it with start_backend.bat "
                "or python scripts/start.py, or correct UI_BACKEND_URL."
            ) from error
        except httpx.TimeoutException as error:
            raise BackendError(
                f"The backend at {self.base_url} took too long. Try a shorter text, or raise "
                "UI_TIMEOUT_S."
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise BackendError(
                f"The connection to the backend at {self.base_url} broke off: it was stopped or "
                f"restarted. Try again. ({error})"
            ) from error

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code != 200:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx.Response) -> BackendError:
        try:
            said = ErrorReply.model_validate_json(response.content).error
        except ValidationError:
            return BackendError(
                f"{response.request.url} answered with status {response.status_code} and no "
                "explanation: does UI_BACKEND_URL point at the speech server?",
                response.status_code,
            )
        return BackendError(said.message, response.status_code, said.request_id)


def _body(form: SpeechForm, *, stream: bool) -> dict[str, Any]:
    fields = {**form.fields(), "stream": "true" if stream else "false"}
    if form.recording is None:
        return {"data": fields}
    return {
        "data": fields,
        "files": {"speaker_file": (form.recording.name, form.recording.content)},
    }


def _parsed(kind: type[ReplyT], response: httpx.Response) -> ReplyT:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise BackendError(
            f"{response.request.url} answered something else than expected: is it the speech "
            "server, and of the same version as this page?",
            response.status_code,
        ) from error
