from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import WAIT_MS
from tests.unit.ui.fake_backend import FakeBackend
from tests.unit.ui.server import RunningServer

pytestmark = pytest.mark.browser


@pytest.mark.usefixtures("running_backend")
def test_typing_choosing_and_speaking_gives_sound_and_figures(
    open_page: Any, streamlit_url: str, backend: FakeBackend, tmp_path: Path
):
    opened = open_page(streamlit_url)
    page: Page = opened.page
    speak = page.get_by_role("button", name="Speak", exact=True)
    expect(speak).to_be_enabled(timeout=WAIT_MS)
    page.get_by_label("Voice").click()
    page.get_by_role("option", name="sally").click()
    page.get_by_label("Text", exact=True).fill("one two three")
    speak.click()
    page.wait_for_function("document.querySelector('audio')?.duration > 1")
    assert page.eval_on_selector("audio", "audio => audio.duration") == pytest.approx(1.2, abs=0.05)
    expect(page.locator(".cards").first).to_contain_text("84 ms")
    assert backend.requests[-1]["voice"] == "sally"
    assert backend.requests[-1]["text"] == "one two three"
    page.screenshot(path=tmp_path / "streamlit.png", full_page=True)
    assert opened.requests_elsewhere == []
    assert opened.errors == []


def test_a_missing_backend_is_said_and_a_started_one_is_found(
    open_page: Any, streamlit_url: str, backend: FakeBackend, backend_port: int
):
    opened = open_page(streamlit_url, width=390, height=844)
    page: Page = opened.page
    expect(page.get_by_text("start_backend.bat").first).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Speak", exact=True)).to_be_disabled()
    assert opened.overflow_px <= 0
    with RunningServer(backend.app(), backend_port):
        page.reload()
        expect(page.get_by_role("button", name="Speak", exact=True)).to_be_enabled(timeout=WAIT_MS)
