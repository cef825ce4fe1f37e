"""What goes over the wire about voices. The texts are the public documentation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from backend.audio.clinic import ClinicReport
from backend.service.voices import Voice

_PUBLIC_DIGITS = 3


class VoiceReferenceResponse(BaseModel):
    """One recording of a voice."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    text: str
    """What is said in it; empty when nobody said."""
    duration_s: float
    has_audio: bool
    """Whether the recording itself is kept, so that it can be encoded again by another codec."""


class VoiceResponse(BaseModel):
    """A voice to choose by name or id."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Stays the same when the voice gets another name."""
    name: str
    description: str
    language: str
    text: str
    """What is said in the first recording."""
    duration_s: float
    """Of all recordings together."""
    tags: list[str]
    consent: str
    """Who allowed the use of this voice."""
    references: list[VoiceReferenceResponse]
    created_at: str | None
    """UTC, ISO 8601; null for the model's own voices."""
    updated_at: str | None
    is_builtin: bool
    """It came with the model and cannot be changed."""
    is_default: bool
    """It speaks when a request names no voice."""
    problem: str
    """Why the voice cannot speak with the loaded model; empty when it can."""

    @classmethod
    def of(cls, voice: Voice) -> VoiceResponse:
        """Describe ``voice``."""
        return cls(
            id=voice.id,
            name=voice.name,
            description=voice.description,
            language=voice.language,
            text=voice.text,
            duration_s=round(voice.duration_s, _PUBLIC_DIGITS),
            tags=list(voice.tags),
            consent=voice.consent,
            references=[
                VoiceReferenceResponse(
                    text=reference.text,
                    duration_s=round(reference.duration_s, _PUBLIC_DIGITS),
                    has_audio=reference.has_audio,
                )
                for reference in voice.references
            ],
            created_at=voice.created_at or None,
            updated_at=voice.updated_at or None,
            is_builtin=voice.is_builtin,
            is_default=voice.is_default,
            problem=voice.problem,
        )


class VoicesResponse(BaseModel):
    """All voices, the model's own and the added ones."""

    voices: list[VoiceResponse]


class VoiceDeletedResponse(BaseModel):
    """What was deleted."""

    id: str
    name: str


class VoiceUpdateRequest(BaseModel):
    """What to change about a voice. Fields that are absent or null stay as they are."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"name": "Ada", "tags": ["calm", "low"]}]},
    )

    name: str | None = None
    """1 to 64 characters: letters and digits of any script, spaces and `-_.'()&+,!#@`."""
    language: str | None = None
    """Like `en` or `pt-BR`."""
    tags: list[str] | None = None
    """At most 16 words to search by."""
    consent: str | None = None
    """Who allowed the use of this voice; up to 1000 characters."""
    description: str | None = None
    """One line for people; up to 1000 characters."""


class FindingResponse(BaseModel):
    """Something that was noticed in a recording."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    severity: Literal["refuse", "warn", "hint"]
    """`refuse`: it cannot be used; `warn`: the voice will suffer; `hint`: it could be better."""
    code: str
    """For programs: `too_short`, `short`, `long`, `too_long`, `silent`, `quiet`, `much_silence`,
    `clipping`, `noisy`, `no_pauses`, `narrow`."""
    message: str
    """What it is and what to do about it."""


class WindowResponse(BaseModel):
    """A part of a recording."""

    start_s: float
    end_s: float


class ClinicResponse(BaseModel):
    """What was measured in a recording and what follows from it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    is_usable: bool
    """False when a finding says `refuse`."""
    duration_s: float
    source_sample_rate: int
    """Hz of the upload."""
    peak_dbfs: float
    level_dbfs: float
    """Mean power of the speech; -120 for digital silence."""
    clipping_ratio: float
    """Share of samples at full scale, 0 to 1."""
    snr_db: float | None
    """Speech over noise, at most 60; null where nothing pauses."""
    silence_ratio: float
    """Share of the time without speech, 0 to 1."""
    bandwidth_hz: float
    """Up to here the sound has content."""
    findings: list[FindingResponse]
    """Worst first."""
    best_window: WindowResponse | None
    """The best ten seconds of a long recording."""

    @classmethod
    def of(cls, report: ClinicReport) -> ClinicResponse:
        """Describe ``report``."""
        values: dict[str, Any] = asdict(report)
        for name, value in values.items():
            if isinstance(value, float):
                values[name] = round(value, 5 if name.endswith("_ratio") else 2)
        return cls.model_validate({**values, "is_usable": report.is_usable})


class VoiceAddedResponse(BaseModel):
    """A voice, and what the clinic found in the recordings that came with the request."""

    voice: VoiceResponse
    clinic: list[ClinicResponse]
