from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import WAIT_MS
from tests.unit.ui.fake_backend import SAMPLE_RATE, FakeBackend, sine
from tests.unit.ui.server import RunningServer
from ui.wav import wav_file

pytestmark = pytest.mark.browser


def speak_button(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^Speak"))


@pytest.mark.usefixtures("running_backend")
def test_typing_choosing_and_speaking_gives_sound_and_figures(
    open_page: Any, streamlit_url: str, backend: FakeBackend, tmp_path: Path
):
    opened = open_page(streamlit_url)
    page: Page = opened.page
    speak = speak_button(page)
    expect(speak).to_be_enabled(timeout=WAIT_MS)
    page.get_by_role("combobox", name="Voice", exact=True).click()
    page.get_by_role("option", name=re.compile("sally")).click()
    page.get_by_label("Text", exact=True).fill("one two three")
    speak.click()
    page.wait_for_function("document.querySelector('audio')?.duration > 1")
    assert page.eval_on_selector("audio", "audio => audio.duration") == pytest.approx(1.2, abs=0.05)
    expect(page.locator(".cards").first).to_contain_text("84 ms")
    assert backend.requests[-1]["voice"] == "sally"
    assert backend.requests[-1]["text"] == "one two three"
    page.get_by_role("tab", name="Dashboard").click()
    requests = page.get_by_test_id("stMetric").filter(has_text="Requests")
    expect(requests.get_by_test_id("stMetricValue")).to_have_text("1", timeout=WAIT_MS)
    backend.requests.append({"text": "of somebody else"})
    expect(requests.get_by_test_id("stMetricValue")).to_have_text("2", timeout=WAIT_MS)
    page.screenshot(path=tmp_path / "streamlit.png", full_page=True)
    assert opened.requests_elsewhere == []
    assert opened.errors == []


@pytest.mark.usefixtures("running_backend")
def test_a_voice_is_added_from_a_file_on_a_dark_phone(
    open_page: Any, streamlit_url: str, backend: FakeBackend, tmp_path: Path
):
    file = tmp_path / "ada.wav"
    file.write_bytes(wav_file(sine(4).tobytes(), SAMPLE_RATE))
    opened = open_page(streamlit_url, width=390, height=844, dark=True)
    page: Page = opened.page
    expect(speak_button(page)).to_be_enabled(timeout=WAIT_MS)
    page.get_by_role("tab", name="Voices").click()
    page.get_by_label("Its recording").locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("ada.wav")).to_be_visible(timeout=WAIT_MS)
    page.get_by_label("Name", exact=True).fill("Ada")
    page.get_by_label("Who allowed it").fill("my own voice")
    page.get_by_label("Who allowed it").press("Enter")
    page.get_by_role("button", name="Add the voice").click()
    expect(page.get_by_text("Ada is added")).to_be_visible(timeout=WAIT_MS)
    assert backend.voices[-1]["name"] == "Ada"
    assert opened.overflow_px <= 0
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 60
    assert opened.requests_elsewhere == []


def test_a_missing_backend_is_said_and_a_started_one_is_found(
    open_page: Any, streamlit_url: str, backend: FakeBackend, backend_port: int
):
    opened = open_page(streamlit_url, width=390, height=844)
    page: Page = opened.page
    expect(page.get_by_text("start_backend.bat").first).to_be_visible(timeout=WAIT_MS)
    expect(speak_button(page)).to_be_disabled()
    assert opened.overflow_px <= 0
    with RunningServer(backend.app(), backend_port):
        page.reload()
        expect(speak_button(page)).to_be_enabled(timeout=WAIT_MS)
