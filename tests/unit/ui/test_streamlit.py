from __future__ import annotations

from pathlib import Path

import pytest
from streamlit import config as streamlit_config
from streamlit.testing.v1 import AppTest

from tests.unit.ui.fake_backend import FakeBackend
from tests.unit.ui.server import closed_port

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


def html_of(page: AppTest) -> str:
    return " ".join(element.proto.body for element in page.get("html"))


def test_the_page_shows_the_backend_and_its_voices(page: AppTest):
    assert not page.exception
    assert "Ready" in html_of(page)
    assert page.selectbox[0].options == ["kit — A clear, low voice", "sally — Bright and friendly"]
    assert page.selectbox[0].value == "kit"


def test_speaking_gives_sound_figures_and_a_chart(page: AppTest, backend: FakeBackend):
    page.text_area(key="text").set_value("one two three")
    page.selectbox[0].set_value("sally")
    page.button(key="speak").click().run()
    assert not page.exception
    assert len(page.get("audio")) == 1
    assert "412 ms" in html_of(page)
    assert backend.requests[-1]["text"] == "one two three"
    assert backend.requests[-1]["voice"] == "sally"
    assert "temperature" not in backend.requests[-1]
    assert len(page.session_state.history) == 1


def test_a_marker_is_added_to_the_text(page: AppTest):
    page.text_area(key="text").set_value("Hello.")
    page.pills(key="marker").set_value("(sad)").run()
    assert page.text_area(key="text").value == "Hello. (sad) "
    assert page.pills(key="marker").value is None


def test_own_sampling_values_are_sent_when_chosen(page: AppTest, backend: FakeBackend):
    page.checkbox[0].check().run()
    page.slider[0].set_value(0.5)
    page.button(key="speak").click().run()
    assert backend.requests[-1]["temperature"] == "0.5"
    assert backend.requests[-1]["top_k"] == "0"


def test_empty_text_is_refused_in_words(page: AppTest, backend: FakeBackend):
    page.text_area(key="text").set_value(" ")
    page.button(key="speak").click().run()
    assert "Type something" in page.error[0].value
    assert backend.requests == []


def test_the_caches_can_be_cleared(page: AppTest, backend: FakeBackend):
    page.button(key="clear").click().run()
    assert backend.caches_cleared == 1
    assert "empty" in page.success[0].value


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
