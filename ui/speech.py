"""What the pages ask for and get when they speak: forms, streams, files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ui.wav import BYTES_PER_SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ui.replies import SpeechFacts

FORMATS = ("wav", "mp3", "flac", "opus")
"""What the pages offer for download."""
MEDIA_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "opus": "audio/ogg"}

LANGUAGES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip
"""Languages of the text that the backend knows, by their code."""
SAMPLE_RATES = (8000, 16000, 22050, 24000, 44100, 48000)
"""Hz; what files are commonly asked for in."""
MAX_SEED = 2**32 - 1


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
        language: Code of the text's language.
        seed: Repeats an earlier take.
        speed: 0.5..2; 1 is as spoken.
        volume: -20..20 dB; 0 is as spoken.
        sample_rate: Hz of the sound.
        normalize: Bring it to one loudness.
        trim_silence: Take silence at its beginning and end away.
    """

    text: str
    voice: str | None = None
    recording: Recording | None = None
    transcript: str | None = None
    language: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    speed: float | None = None
    volume: float | None = None
    sample_rate: int | None = None
    normalize: bool | None = None
    trim_silence: bool | None = None
    format: str = "wav"

    def values(self) -> dict[str, Any]:
        """Give what was chosen, by the backend's names; the recording's bytes are apart."""
        given: dict[str, Any] = {
            "text": self.text,
            "voice": None if self.recording else self.voice,
            "prompt_text": (self.transcript or None) if self.recording else None,
            "language": self.language,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "speed": self.speed,
            "volume": self.volume,
            "sample_rate": self.sample_rate,
            "normalize": self.normalize,
            "trim_silence": self.trim_silence,
            "format": self.format,
        }
        return {name: value for name, value in given.items() if value is not None}

    def fields(self) -> dict[str, str]:
        """Give the form fields to send."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in self.values().items()
        }

    def body(self, **further: str) -> dict[str, Any]:
        """Give the request's body as arguments of an HTTP client."""
        fields = {**self.fields(), **further}
        if self.recording is None:
            return {"data": fields}
        return {
            "data": fields,
            "files": {"speaker_file": (self.recording.name, self.recording.content)},
        }


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
