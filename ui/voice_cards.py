"""Pieces of HTML about voices: what is known of one, what was found in a recording."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ui.cards import UNKNOWN, cards_html, message_html, seconds, share

if TYPE_CHECKING:
    from ui.voice_replies import ClinicReport, VoiceDetails

SEVERITIES = {"refuse": "error", "warn": "warn", "hint": "info"}


def voice_html(voice: VoiceDetails) -> str:
    """Give what is known of a voice."""
    origin = "came with the model" if voice.is_builtin else "added here"
    recordings = len(voice.references) or 1
    facts = [
        ("Voice", voice.name, voice.description or origin),
        ("Length", seconds(voice.duration_s), f"{recordings} recording" + "s" * (recordings > 1)),
        ("Language", voice.language or UNKNOWN, ", ".join(voice.tags)),
    ]
    if voice.consent:
        facts.append(("Consent", voice.consent, ""))
    said = [reference.text for reference in voice.references if reference.text] or [voice.text]
    words = "".join(f"<blockquote>{escape(text)}</blockquote>" for text in said if text)
    problem = message_html(voice.problem, "error") if voice.problem else ""
    return cards_html(facts, f"The voice {voice.name}") + words + problem


def clinic_html(report: ClinicReport) -> str:
    """Give what the clinic found in a recording."""
    rate = UNKNOWN
    if report.source_sample_rate is not None:
        rate = f"{report.source_sample_rate / 1000:g} kHz"
    facts = [
        ("Length", seconds(report.duration_s), "5 to 30 s are best"),
        ("Sample rate", rate, "of the recording"),
        ("Level", decibels(report.level_dbfs, "dBFS"), "of the speech"),
        ("Noise", decibels(report.snr_db, "dB"), "speech over noise; 20 and more is good"),
        ("Clipping", share(report.clipping_ratio), "of the samples at full scale"),
        ("Silence", share(report.silence_ratio), "of the time"),
    ]
    verdict = message_html("The recording is fine.", "good")
    if report.findings:
        verdict = "".join(
            message_html(finding.message, SEVERITIES.get(finding.severity, "info"))
            for finding in report.findings
        )
    if report.best_window is not None:
        window = report.best_window
        verdict += message_html(f"Its best part: {window.start_s:.1f} to {window.end_s:.1f} s.")
    return verdict + cards_html(facts, "What the clinic found")


def decibels(value: float | None, unit: str) -> str:
    """Write a level."""
    return UNKNOWN if value is None else f"{value:.0f} {unit}"
