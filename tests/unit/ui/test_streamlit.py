from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit import config as streamlit_config
from streamlit.testing.v1 import AppTest

from tests.unit.ui.fake_backend import FakeBackend
from tests.unit.ui.fake_voices import voice
from tests.unit.ui.server import closed_port
from ui import streamlit_state

# AppTest leaves event loops of its own unclosed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("foreign_leftovers"),
]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def switches_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # As `streamlit run` does: it reads the switches that lie beside the script.
    monkeypatch.setattr(streamlit_config, "_main_script_path", str(ROOT / "ui/streamlit_app.py"))
    streamlit_config.get_config_options(force_reparse=True)


@pytest.fixture
def page(backend_url: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("UI_BACKEND_URL", backend_url)
    return AppTest.from_file(str(ROOT / "ui/streamlit_app.py"), default_timeout=30).run()


def named(elements: Any, label: str) -> Any:
    return next(element for element in elements if element.label == label)


def html_of(page: AppTest) -> str:
    return " ".join(element.proto.body for element in page.get("html"))


def test_the_page_shows_the_backend_and_its_voices(page: AppTest):
    assert not page.exception
    assert "Ready" in html_of(page)
    assert page.selectbox(key="voice").options == [
        "kit — A clear, low voice, en",
        "sally — Bright and friendly, en",
    ]
    assert page.selectbox(key="voice").value == "kit"
    assert [tab.label for tab in page.tabs] == [
        "Speak", "Dashboard", "Voices", "Jobs", "Emotions", "System",
    ]  # fmt: skip


def test_speaking_gives_sound_figures_and_a_place_on_the_list(page: AppTest, backend: FakeBackend):
    page.text_area(key="text").set_value("one two three")
    page.selectbox(key="voice").set_value("sally")
    page.button(key="speak").click().run()
    assert not page.exception
    assert len(page.get("audio")) == 3  # the last take, and two sides to compare
    assert "412 ms" in html_of(page)
    assert backend.requests[-1]["text"] == "one two three"
    assert backend.requests[-1]["voice"] == "sally"
    assert not {"temperature", "speed", "normalize", "trim_silence", "seed"}.intersection(
        backend.requests[-1]
    )
    assert [take.number for take in page.session_state.takes] == [1]


def test_a_marker_is_added_to_the_text(page: AppTest):
    page.text_area(key="text").set_value("Hello.")
    page.pills(key="marker").set_value("(sad)").run()
    assert page.text_area(key="text").value == "Hello. (sad) "
    assert page.pills(key="marker").value is None


def test_a_preset_sets_the_values_that_are_sent(page: AppTest, backend: FakeBackend):
    page.selectbox(key="preset").set_value("steady").run()
    assert page.slider(key="temperature").value == 0.55
    page.slider(key="temperature").set_value(0.5)
    page.button(key="speak").click().run()
    assert backend.requests[-1]["temperature"] == "0.5"
    assert backend.requests[-1]["top_k"] == "0"


def test_how_it_is_to_sound_is_sent(page: AppTest, backend: FakeBackend):
    page.slider(key="speed").set_value(1.5)
    page.slider(key="volume").set_value(-6)
    page.checkbox(key="normalize").check()
    page.checkbox(key="trim_silence").check()
    page.selectbox(key="format").set_value("flac")
    page.button(key="speak").click().run()
    sent = backend.requests[0]
    assert (sent["speed"], sent["volume"], sent["normalize"]) == ("1.5", "-6.0", "true")
    assert sent["trim_silence"] == "true"
    assert backend.requests[-1]["format"] == "flac"


def test_no_more_takes_are_kept_than_there_is_room_for(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streamlit_state, "MAX_TAKES", 2)
    for _ in range(3):
        page.button(key="speak").click().run()
    assert [take.number for take in page.session_state.takes] == [2, 3]


def test_empty_text_is_refused_in_words(page: AppTest, backend: FakeBackend):
    page.text_area(key="text").set_value(" ")
    page.button(key="speak").click().run()
    assert "Type something" in page.error[0].value
    assert backend.requests == []


def test_the_caches_can_be_cleared(page: AppTest, backend: FakeBackend):
    page.selectbox(key="cache").set_value("Spoken texts")
    page.button(key="clear").click().run()
    assert backend.caches_cleared == ["semantic"]
    assert "Emptied" in page.success[0].value


def test_the_dashboard_shows_cards_and_the_newest_requests(page: AppTest):
    page.button(key="speak").click().run()
    shown = {metric.label: metric.value for metric in page.metric}
    assert (shown["Requests"], shown["First sound"], shown["Cache hits"]) == ("1", "400 ms", "25 %")
    assert "The newest requests" in html_of(page)
    assert len(page.session_state.looks) > 0


def test_a_voice_can_be_looked_at_renamed_and_deleted(page: AppTest, backend: FakeBackend):
    assert "A clear, low voice" in html_of(page)
    backend.voices.append(voice("Ada", is_builtin=False))
    page.run()
    page.selectbox(key="library").set_value("Ada").run()
    named(page.text_input, "Rename to").set_value("Ada L.")
    page.button(key="save_voice").click().run()
    assert backend.voices[-1]["name"] == "Ada L."
    assert "Saved" in page.success[0].value
    page.selectbox(key="library").set_value("Ada L.").run()
    named(page.checkbox, "I want to delete this voice").check().run()
    page.button(key="delete_voice").click().run()
    assert len(backend.voices) == 2


def test_a_new_voice_needs_a_recording(page: AppTest, backend: FakeBackend):
    page.text_input(key="new_name").set_value("Ada")
    page.button(key="add_voice").click().run()
    assert "Choose a recording" in page.error[0].value
    assert len(backend.voices) == 2


def test_a_job_is_started_watched_and_its_sound_fetched(page: AppTest, backend: FakeBackend):
    page.text_area(key="job_text").set_value("A very long text.")
    page.text_input(key="job_name").set_value("Chapter 1")
    page.button(key="start_job").click().run()
    assert not page.exception
    asked = {"text": "A very long text.", "name": "Chapter 1", "voice": "kit", "format": "wav"}
    assert backend.jobs.asked == [asked]
    page.run()
    job = backend.jobs.jobs[0]["id"]
    page.button(key=f"fetch_{job}").click().run()
    assert not page.exception
    assert page.session_state[f"audio_{job}_2"] == backend.jobs.sound


def test_a_job_can_be_paused_resumed_and_cancelled(page: AppTest, backend: FakeBackend):
    backend.jobs.are_held = True
    page.text_area(key="job_text").set_value("A very long text.")
    page.button(key="start_job").click().run()
    job = backend.jobs.jobs[0]
    page.button(key=f"pause_{job['id']}").click().run()
    assert job["status"] == "paused"
    page.button(key=f"resume_{job['id']}").click().run()
    assert job["status"] == "running"
    page.button(key=f"cancel_{job['id']}").click().run()
    assert job["status"] == "cancelled"
    page.button(key=f"delete_{job['id']}").click().run()
    assert backend.jobs.jobs == []


def test_an_empty_job_is_refused_in_words(page: AppTest, backend: FakeBackend):
    page.button(key="start_job").click().run()
    assert "Type a text" in page.error[0].value
    assert backend.jobs.asked == []


def test_a_backend_with_keys_is_spoken_to_once_a_key_is_typed(page: AppTest, backend: FakeBackend):
    backend.api_key = "a-secret-key"
    page.run()
    assert "API key" in page.error[0].value
    page.text_input(key="api_key").set_value("a-secret-key").run()
    assert page.selectbox(key="voice").value == "kit"
    assert not page.error


def test_a_missing_backend_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UI_BACKEND_URL", f"http://127.0.0.1:{closed_port()}")
    page = AppTest.from_file(str(ROOT / "ui/streamlit_app.py"), default_timeout=30).run()
    assert not page.exception
    assert "start_backend.bat" in page.error[0].value
    assert page.button(key="speak").disabled


def test_a_malformed_setting_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UI_GRADIO_PORT", "many")
    page = AppTest.from_file(str(ROOT / "ui/streamlit_app.py"), default_timeout=30).run()
    assert "UI_GRADIO_PORT='many'" in page.error[0].value


def test_streamlit_does_not_call_home():
    assert streamlit_config.get_option("browser.gatherUsageStats") is False
