from __future__ import annotations

import pytest

from ui import cards
from ui.progress import Progress
from ui.replies import BackendMetrics, Gpu, Health, RequestFigures, SpeechFacts
from ui.voice_cards import clinic_html
from ui.voice_replies import ClinicReport

HOSTILE = "<img src=x onerror=alert(1)>"


def test_what_is_unknown_is_shown_as_unknown_not_as_zero():
    values = {value for _, value, _ in cards.speech_figures(SpeechFacts())}
    assert values == {cards.UNKNOWN}


def test_figures_are_written_with_their_units():
    facts = SpeechFacts(ttfa_ms=84.2, latency_ms=1412, rtf=0.5, audio_duration_s=2.824, seed=0)
    shown = {label: (value, note) for label, value, note in cards.speech_figures(facts)}
    assert shown["First sound"][0] == "84 ms"
    assert shown["Latency"][0] == "1.41 s"
    assert shown["RTF"] == ("0.50", "2.0 x real time")
    assert shown["Duration"][0] == "2.82 s"
    assert shown["Seed"][0] == "0"


def test_a_graphics_card_gets_a_card_of_its_own():
    gpu = Gpu(name="H200", memory_used_mib=2048, memory_total_mib=147456, utilization_percent=37)
    assert cards.speech_figures(SpeechFacts(), [gpu])[-1] == (
        "GPU",
        "2.0 / 144 GiB",
        "H200 · 37 % busy",
    )


def test_a_voice_from_a_recording_is_named_for_people():
    facts = SpeechFacts.from_headers({"X-Voice": "upload"})
    assert facts.voice_words == "your recording"
    assert SpeechFacts.from_headers({"X-Voice": "j%C3%BCrgen"}).voice == "jürgen"


def test_text_from_outside_is_escaped_everywhere():
    pieces = [
        cards.message_html(HOSTILE, "error"),
        cards.cards_html([(HOSTILE, HOSTILE, HOSTILE)], HOSTILE),
        cards.health_html(Health(status="starting", detail=HOSTILE, model=HOSTILE)),
    ]
    assert all("<img" not in piece for piece in pieces)
    assert all("&lt;img" in piece for piece in pieces)


def test_errors_are_announced_as_alerts_and_news_as_status():
    assert 'role="alert"' in cards.message_html("no", "error")
    assert 'role="status"' in cards.message_html("yes", "good")


def test_the_pill_tells_down_loading_and_ready_apart():
    assert "does not answer" in cards.health_html(None)
    assert "loading the model" in cards.health_html(
        Health(status="starting", detail="loading the model")
    )
    assert "pill-ready" in cards.health_html(Health(status="ready", model="pocket"))


def test_what_the_backend_does_is_shown_with_its_caches_and_queue():
    metrics = BackendMetrics.model_validate(
        {
            "requests": {"total": 7, "in_progress": 1},
            "audio_s": 600,
            "latency": {"ttfa_s": {"count": 7, "p50": 0.2, "p95": 1.5}},
            "caches": {"voice_codes": {"hits": 3, "misses": 1}},
        }
    )
    queue = {"running": 1, "waiting": 2, "max_running": 4, "max_waiting": 64}
    health = Health.model_validate({"status": "ready", "queue": queue})
    shown = {label: value for label, value, _ in cards.load_figures(metrics, health)}
    assert (shown["Requests"], shown["First sound"], shown["Queue"]) == ("7", "200 ms", "2")
    assert (shown["Speech made"], shown["Cache: voice codes"]) == ("10.0 min", "75 %")
    assert shown["Latency"] == cards.UNKNOWN


def test_requests_are_a_table_whose_texts_are_escaped():
    table = cards.requests_html([RequestFigures(status="ok", voice=HOSTILE, latency_ms=412.5)])
    assert "<td>412 ms</td>" in table
    assert "<img" not in table
    assert "Nothing has been spoken" in cards.requests_html([])


def test_progress_without_a_known_end_has_no_value():
    assert "value=" not in cards.progress_html("waiting", None)
    assert 'value="0.250"' in cards.progress_html("speaking", 0.25)


def test_how_long_a_text_will_sound_is_estimated_without_its_markers():
    assert Progress("(excited) " + "a" * 30).expected_s == pytest.approx(2.0, abs=0.1)
    assert Progress("a" * 30, speed=2).expected_s == pytest.approx(1.0)
    assert Progress("狐" * 10).expected_s == pytest.approx(2.0)
    assert Progress("a" * 30).fraction(60) < 1


def test_a_clinic_report_names_what_it_found():
    report = ClinicReport.model_validate(
        {
            "duration_s": 40,
            "findings": [{"severity": "warn", "message": HOSTILE}],
            "best_window": {"start_s": 3, "end_s": 13},
        }
    )
    html = clinic_html(report)
    assert "message-warn" in html
    assert "<img" not in html
    assert "3.0 to 13.0 s" in html
