"""Recordings on their way into the store: decoded, examined, encoded by the loaded codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.audio.clinic import ClinicReport, Severity, examine
from backend.audio.decode import decode_audio
from backend.core.errors import InvalidAudioError, InvalidBundleError, PromptTooLongError
from backend.service.codes_file import codes_fit
from backend.service.voice_keeping import NewReference
from backend.service.voice_rules import checked_transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.settings import Settings
    from backend.core.types import EngineInfo, Turn
    from backend.service.cpu_pool import CpuPool
    from backend.service.requests import UploadedReference
    from backend.service.voice_bundle import VoiceBundle

MAX_CHECK_S = 600.0
"""Longest recording that ``examine`` looks at; long ones get a window to cut out."""

_SHORTEST_TEXT = "Hello."


class RecordingIntake:
    """Make references of a voice. Confined to the event loop.

    Args:
        engine: Encodes.
        pool: Decodes and examines.
        settings: Limits on recordings and transcripts.
    """

    def __init__(self, engine: EngineClient, pool: CpuPool, settings: Settings) -> None:
        self._engine = engine
        self._pool = pool
        self._settings = settings

    async def examine(self, content: bytes, info: EngineInfo) -> ClinicReport:
        """Look at a recording without encoding it.

        Raises:
            InvalidAudioError: It is not audio, damaged, silent or longer than ``MAX_CHECK_S``.
        """
        return await self._pool.run(self._examine, content, info)

    async def take(
        self,
        recording: UploadedReference,
        info: EngineInfo,
        revision: str,
        *,
        keep_audio: bool,
    ) -> tuple[NewReference, ClinicReport]:
        """Turn a recording into what is stored of it.

        Args:
            recording: As it came.
            info: The loaded model.
            revision: Of its codec.
            keep_audio: Store the recording too.

        Raises:
            InvalidVoiceError: The transcript is too long.
            InvalidAudioError: The recording cannot be used; the message says why.
        """
        text = checked_transcript(recording.text, self._settings.max_text_chars)
        samples, report = await self._pool.run(self._decode, recording.content, info)
        codes = await self._engine.encode_reference(samples)
        reference = NewReference(
            text=text,
            codes=codes,
            codec_revision=revision,
            duration_s=samples.size / info.sample_rate,
            audio=recording.content if keep_audio else None,
        )
        return reference, report

    async def encode_again(self, content: bytes, info: EngineInfo) -> NDArray[np.int32]:
        """Give the codes ``[K, F]`` of a recording that was accepted before.

        Raises:
            InvalidAudioError: It cannot be decoded.
        """
        samples, _ = await self._pool.run(self._decode, content, info)
        return await self._engine.encode_reference(samples)

    async def from_bundle(
        self, bundle: VoiceBundle, info: EngineInfo, revision: str
    ) -> list[NewReference]:
        """Take a bundle's codes, or make them from its recordings if another codec made them.

        Raises:
            InvalidBundleError: Its codes are another codec's and it holds no recordings.
            InvalidAudioError: A recording in it cannot be used.
            PromptTooLongError: The references together leave no room for speech.
        """
        max_chars = self._settings.max_text_chars
        is_ours = bundle.codec_revision == revision
        references: list[NewReference] = []
        for bundled in bundle.references:
            codes = bundled.codes
            if not is_ours and bundled.audio is None:
                raise InvalidBundleError(
                    f"the voice was made with another codec ({bundle.codec_revision}; this server "
                    f"has {revision}) and its file holds no recording to encode again; export it "
                    "with include_audio=true, or add the voice from its recording"
                )
            if not is_ours and bundled.audio is not None:
                codes = await self.encode_again(bundled.audio, info)
            if not codes_fit(codes, info):
                raise InvalidBundleError("the voice file is damaged: its codes fit no codebook")
            references.append(
                NewReference(
                    text=checked_transcript(bundled.text, max_chars),
                    codes=codes,
                    codec_revision=revision,
                    duration_s=codes.shape[1] / info.frame_rate,
                    audio=bundled.audio,
                )
            )
        await self.require_room([reference.turn for reference in references], info)
        return references

    async def require_room(self, turns: Sequence[Turn], info: EngineInfo) -> None:
        """Refuse references that leave no room for a text.

        Raises:
            PromptTooLongError: They take more positions than a prompt can have.
        """
        positions = await self._engine.prompt_length(_SHORTEST_TEXT, turns)
        if positions > info.max_prompt_positions:
            seconds = sum(turn.codes.shape[1] for turn in turns) / info.frame_rate
            raise PromptTooLongError(
                f"the voice's recordings ({seconds:.0f} s together) take {positions} positions; "
                f"the model has {info.max_prompt_positions} for a prompt, so send shorter or "
                "fewer recordings"
            )

    def _examine(self, content: bytes, info: EngineInfo) -> ClinicReport:
        recording = decode_audio(
            content,
            target_sample_rate=info.sample_rate,
            max_duration_s=MAX_CHECK_S,
            min_duration_s=0.0,
        )
        return examine(
            recording,
            min_duration_s=self._settings.min_reference_s,
            max_duration_s=self._settings.max_reference_s,
        )

    def _decode(self, content: bytes, info: EngineInfo) -> tuple[NDArray[np.float32], ClinicReport]:
        """Give ``[S]`` float32 samples at the engine's rate and what was found. For a thread."""
        minimum, maximum = self._settings.min_reference_s, self._settings.max_reference_s
        recording = decode_audio(
            content,
            target_sample_rate=info.sample_rate,
            max_duration_s=maximum,
            min_duration_s=minimum,
        )
        report = examine(recording, min_duration_s=minimum, max_duration_s=maximum)
        refusals = [f.message for f in report.findings if f.severity is Severity.REFUSE]
        if refusals:
            raise InvalidAudioError("the recording cannot be used: " + "; ".join(refusals))
        return recording.samples, report
