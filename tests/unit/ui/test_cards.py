from __future__ import annotations

from ui import cards
from ui.replies import Gpu, Health, SpeechFacts

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
