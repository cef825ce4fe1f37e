"""Everything about a request that is decided before a model runs: seed, text, voice, sampling."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.errors import InvalidTextError
from backend.service.emotions import without_unknown_markers
from backend.service.languages import abbreviations_of, checked_language
from backend.service.live_text import live_segments
from backend.service.narration import Narration
from backend.service.requests import MAX_SEED
from backend.service.text import clean_text, is_speakable, split_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.core.settings import Settings
    from backend.core.types import EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.service.ledger import SpeechLedger
    from backend.service.references import ReferenceVoices
    from backend.service.requests import SpeechRequest
    from backend.service.voices import VoiceLibrary

_LONG_TEXT_CHARS = 20_000
"""Longer texts are cut in a thread: the event loop has others to serve."""


class Preparation:
    """Turn requests into narrations. Confined to the event loop.

    Args:
        settings: Limits.
        pool: Threads for long texts.
        references: Finds and encodes voices.
    """

    def __init__(self, settings: Settings, pool: CpuPool, references: ReferenceVoices) -> None:
        self._settings = settings
        self._pool = pool
        self._references = references

    async def prepare(
        self,
        request: SpeechRequest,
        info: EngineInfo,
        library: VoiceLibrary,
        ledger: SpeechLedger,
        *,
        is_job: bool = False,
    ) -> Narration:
        """Decide everything about a request but its file.

        Args:
            request: What to speak.
            info: Of the engine.
            library: The voices there are.
            ledger: Gets seed, voice, size and warnings.
            is_job: The text may be as long as that of a job.

        Raises:
            InvalidInputError: Text, recording, language or sampling cannot be used.
            VoiceNotFoundError: No voice has this name.
        """
        ledger.sample_rate = info.sample_rate
        ledger.seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        sampling = request.sampling.apply(info.sampling, ledger.seed)
        segments = await self._segments_of(request, info, ledger, is_job=is_job)
        voice = await self._references.resolve(request, library, info, ledger)
        ledger.voice = voice.name
        return Narration(
            request_id=request.request_id,
            segments=segments,
            references=voice.turns,
            sampling=sampling,
            stream=request.stream,
            is_patient=request.is_patient,
        )

    async def _segments_of(
        self, request: SpeechRequest, info: EngineInfo, ledger: SpeechLedger, *, is_job: bool
    ) -> list[str] | AsyncGenerator[str, None]:
        language = checked_language(request.language)
        if request.live_text is not None:
            return live_segments(request.live_text, info.model, ledger)
        name = "max_job_chars" if is_job else "max_text_chars"
        limit = (getattr(self._settings, name), name.upper())
        if len(request.text) > _LONG_TEXT_CHARS:
            cut = await self._pool.run(_cut_text, request.text, language, info.model, *limit)
        else:
            cut = _cut_text(request.text, language, info.model, *limit)
        ledger.num_chars, ledger.num_segments = cut.num_chars, len(cut.segments)
        ledger.warnings += cut.warnings
        return cut.segments


@dataclass(frozen=True, slots=True)
class _CutText:
    segments: list[str]
    num_chars: int
    warnings: list[str]


def _cut_text(
    text: str, language: str | None, model: str, max_chars: int, setting: str
) -> _CutText:
    """Clean and cut a text. May run in a thread."""
    cleaned, warnings = clean_text(text, max_chars, setting), list[str]()
    cleaned, num_removed = without_unknown_markers(cleaned, model)
    if num_removed:
        what = "1 marker" if num_removed == 1 else f"{num_removed} markers"
        warnings.append(f"{what} left out: the model {model} does not know them")
    if not is_speakable(cleaned):
        raise InvalidTextError(
            f"the text is only markers, which the model {model} does not know; send at least one "
            "word"
        )
    if language is None:
        return _CutText(split_text(cleaned), len(cleaned), warnings)
    segments = split_text(cleaned, abbreviations=abbreviations_of(language))
    return _CutText(segments, len(cleaned), warnings)
