"""What goes into the service, as plain values, and the speech that comes out.

Every dialect of the API (and whatever else will ask for speech) makes a ``SpeechRequest``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from backend.core.errors import (
    EngineUnavailableError,
    InvalidInputError,
    QueueFullError,
    VoiceNotFoundError,
    VoiceUnusableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.core.types import SamplingParams
    from backend.service.ledger import SpeechLedger
    from backend.service.live_text import LiveText

_Number = TypeVar("_Number", int, float)

MAX_SEED = 2**32 - 1

REFUSALS = (
    InvalidInputError,
    VoiceNotFoundError,
    VoiceUnusableError,
    QueueFullError,
    EngineUnavailableError,
)
"""Errors that mean no work was done."""


@dataclass(frozen=True, slots=True)
class SamplingOverrides:
    """What a request says about sampling; None takes the model's own default.

    Meaning and ranges are those of ``SamplingParams``.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None

    def apply(self, defaults: SamplingParams, seed: int) -> SamplingParams:
        """Give ``defaults`` with what is said here, and the seed.

        Raises:
            InvalidInputError: More frames are demanded than allowed.
        """
        most = _or(self.max_new_tokens, defaults.max_new_tokens)
        least = _or(self.min_new_tokens, defaults.min_new_tokens)
        if 0 < most < least:
            raise InvalidInputError(
                f"min_new_tokens={least} is more than max_new_tokens={most}; raise the latter"
            )
        return replace(
            defaults,
            temperature=_or(self.temperature, defaults.temperature),
            top_p=_or(self.top_p, defaults.top_p),
            top_k=_or(self.top_k, defaults.top_k),
            repetition_penalty=_or(self.repetition_penalty, defaults.repetition_penalty),
            max_new_tokens=most,
            min_new_tokens=least,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class UploadedReference:
    """A recording whose voice is to be continued.

    Attributes:
        content: The file as it came.
        text: What is said in it; empty when the client does not say.
    """

    content: bytes
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """One request for speech.

    Attributes:
        request_id: Names the request in logs, headers and metrics.
        text: What to say.
        voice: Name of a voice; None takes the recording, else the model's default voice.
        reference: A recording instead of a named voice.
        further_references: More recordings of the same voice as ``reference``.
        live_text: A text that is still being written; ``text`` plays no part then.
        sampling: What differs from the model's defaults.
        seed: 0..``MAX_SEED`` fixes the take; None draws one.
        format: A name of ``OUTPUT_FORMATS``.
        stream: True gives bytes as they are made; False one whole file.
        bitrate_kbps: Of a lossy format; None takes its usual one.
        speed: 0.5 (half as fast) .. 2.0, with the pitch kept; 1 changes nothing.
        volume_db: -20 .. 20 dB louder; 0 changes nothing.
        sample_rate: Hz of the file, 8000..48000 where the format can; None takes the model's.
        normalize: Bring the loudness to -16 LUFS (EBU R128).
        trim_silence: Take silence before and after the speech away.
        language: ISO 639-1 code of the text's language, which guides where it is cut; None lets
            the text say.
        is_patient: Wait where the queue is full, instead of being refused.
    """

    request_id: str
    text: str
    voice: str | None = None
    reference: UploadedReference | None = None
    further_references: tuple[UploadedReference, ...] = ()
    live_text: LiveText | None = None
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    seed: int | None = None
    format: str = "wav"
    stream: bool = True
    bitrate_kbps: int | None = None
    speed: float = 1.0
    volume_db: float = 0.0
    sample_rate: int | None = None
    normalize: bool = False
    trim_silence: bool = False
    language: str | None = None
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech that has begun: its first bytes exist, so nothing can turn into an early error.

    Iterate over ``chunks`` and call ``aclose`` in any case; it stops work that is not done.

    Attributes:
        media_type: Value of ``Content-Type``.
        extension: File extension without the dot.
        sample_rate: Hz of the sound inside the file.
        ledger: What is known so far; complete once the bytes have ended.
        first: The first bytes; all of them for a whole file.
        rest: What follows.
    """

    media_type: str
    extension: str
    sample_rate: int
    ledger: SpeechLedger
    first: bytes
    rest: AsyncGenerator[bytes, None]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes."""
        yield self.first
        async for piece in self.rest:
            yield piece

    async def aclose(self) -> None:
        """End the request; does nothing when it has ended."""
        await self.rest.aclose()


def _or(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value
