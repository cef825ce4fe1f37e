"""What the backend answers about voices, as values."""

from __future__ import annotations

from ui.replies import Reply, Voice


class Finding(Reply):
    """Something that was noticed in a recording; ``refuse``, ``warn`` or ``hint``."""

    severity: str
    message: str
    code: str = ""


class Window(Reply):
    """A part of a recording, in seconds from its start."""

    start_s: float
    end_s: float


class ClinicReport(Reply):
    """What was measured in a recording and what follows from it."""

    duration_s: float
    source_sample_rate: int | None = None
    level_dbfs: float | None = None
    clipping_ratio: float | None = None
    snr_db: float | None = None
    silence_ratio: float | None = None
    is_usable: bool = True
    findings: tuple[Finding, ...] = ()
    best_window: Window | None = None


class VoiceReference(Reply):
    """One recording of a voice."""

    text: str = ""
    duration_s: float | None = None


class VoiceDetails(Voice):
    """All that is known of one voice."""

    references: tuple[VoiceReference, ...] = ()


class AddedVoice(Reply):
    """A voice that was added, and what was found in its recordings."""

    voice: VoiceDetails
    clinic: tuple[ClinicReport, ...] = ()
