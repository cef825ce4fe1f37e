"""What a visitor has set on the Gradio page, and the form that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ui.connection import BackendError
from ui.presets import MODEL
from ui.speech import MAX_SEED, Recording, SpeechForm


@dataclass(frozen=True, slots=True)
class Controls:
    """Values of the page's controls, in the order in which the page lists them.

    Attributes:
        recording: Path of the reference recording, or None.
        preset: ``MODEL`` leaves the sampling values to the model; with any other they are sent.
        seed: Digits; empty draws one.
        language: Of the text; empty lets the backend see.
        sample_rate: Hz; 0 leaves it as the model makes it.
    """

    text: str | None
    voice: str | None
    recording: str | None
    transcript: str | None
    preset: str
    temperature: float
    top_p: float
    top_k: float
    repetition_penalty: float
    max_new_tokens: float
    seed: str | None
    file_format: str
    language: str | None
    speed: float
    volume: float
    sample_rate: int | None
    normalize: bool
    trim_silence: bool
    api_key: str | None

    def form(self) -> SpeechForm:
        """Give the form to send. What is left as it is, is not sent.

        Raises:
            BackendError: The text is empty or the seed is no whole number in range.
        """
        if not self.text or not self.text.strip():
            raise BackendError("Type something to say first.")
        form = SpeechForm(
            text=self.text,
            voice=self.voice or None,
            recording=read_recording(self.recording),
            transcript=(self.transcript or "").strip() or None,
            language=self.language or None,
            seed=_read_seed(self.seed),
            speed=self.speed if self.speed != 1 else None,
            volume=self.volume if self.volume != 0 else None,
            sample_rate=self.sample_rate or None,
            normalize=self.normalize or None,
            trim_silence=self.trim_silence or None,
            format=self.file_format,
        )
        if self.preset == MODEL:
            return form
        return replace(
            form,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=int(self.top_k),
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=int(self.max_new_tokens),
        )


def read_recording(path: str | None) -> Recording | None:
    """Read what Gradio has received, if it has received something."""
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
