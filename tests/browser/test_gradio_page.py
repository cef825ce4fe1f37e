from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from playwright.sync_api import Page, expect

from tests.browser.conftest import WAIT_MS, free_port
from tests.unit.ui.fake_backend import SAMPLE_RATE, FakeBackend, sine
from tests.unit.ui.server import RunningServer
from ui.gradio_app import served_page
from ui.settings import UiSettings
from ui.wav import wav_file

pytestmark = [
    pytest.mark.browser,
    # Gradio leaves event loops of its own unclosed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("foreign_leftovers"),
]

TEXT = "one two three four five"
EXPECTED_S = 5 * 0.4


@pytest.fixture
def url(backend_port: int) -> Iterator[str]:
    settings = UiSettings(
        backend_url=f"http://127.0.0.1:{backend_port}", gradio_port=free_port(), timeout_s=20
    )
    with served_page(settings) as address:
        yield address


def wait_until_ready(page: Page) -> None:
    expect(page.locator("#health")).to_contain_text("Ready", timeout=WAIT_MS)


def press_speak(page: Page, text: str = TEXT) -> None:
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Speak", exact=True).click()


def sound_duration(page: Page) -> float:
    """Wait until the take is a whole file, and give its seconds."""
    page.wait_for_function("document.querySelector('.player-sound').duration > 0")
    return page.eval_on_selector(".player-sound", "sound => sound.duration")


@pytest.mark.usefixtures("running_backend")
def test_sound_starts_with_the_first_chunk_and_ends_as_a_whole_file(
    open_page: Any, url: str, backend: FakeBackend
):
    opened = open_page(url)
    page: Page = opened.page
    wait_until_ready(page)
    page.get_by_role("combobox", name="Voice", exact=True).click()
    page.get_by_role("option", name=re.compile("sally")).click()
    backend.gate.clear()
    press_speak(page)

    # The backend has sent its first chunk only, and the page is playing it already.
    player = page.locator(".player")
    expect(player).to_have_attribute("data-state", "playing", timeout=WAIT_MS)
    expect(player).to_have_attribute("data-live", "true")
    page.wait_for_function("Number(document.querySelector('.player').dataset.heard) > 0.05")
    assert backend.streams_ended == 0
    assert page.eval_on_selector(".player-sound", "sound => Number.isNaN(sound.duration)")
    backend.gate.set()

    expect(page.locator("#message")).to_contain_text("Done: 2.0 s", timeout=WAIT_MS)
    assert sound_duration(page) == pytest.approx(EXPECTED_S, abs=0.01)
    expect(player).to_have_attribute("data-state", "paused", timeout=WAIT_MS)  # heard to the end
    cards = page.locator("#figures .card")
    expect(cards).to_have_count(6)
    expect(cards.nth(0)).to_contain_text("84 ms")
    expect(page.locator("#figures")).to_contain_text("sally")
    assert backend.requests[-1]["voice"] == "sally"
    with page.expect_download() as download:
        page.get_by_role("link", name="Download WAV").click()
    assert download.value.suggested_filename == "one-two-three-four-five-sally-42.wav"
    samples, rate = soundfile.read(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert len(samples) / rate == pytest.approx(EXPECTED_S)
    assert opened.requests_elsewhere == []
    assert opened.errors == []


@pytest.mark.usefixtures("running_backend")
def test_a_take_can_be_played_again_and_searched_with_the_keyboard(open_page: Any, url: str):
    page: Page = open_page(url).page
    wait_until_ready(page)
    press_speak(page, "one")
    expect(page.locator(".player")).to_have_attribute("data-state", "paused", timeout=WAIT_MS)
    expect(page.locator("#message")).to_contain_text("Done", timeout=WAIT_MS)
    position = page.get_by_label("Position in seconds")
    position.focus()
    position.press("End")
    assert page.eval_on_selector(".player-sound", "sound => sound.currentTime") > 0.35
    position.press("Home")
    page.get_by_role("button", name="Play", exact=True).press("Enter")
    expect(page.locator(".player")).to_have_attribute("data-state", "playing")


@pytest.mark.usefixtures("running_backend")
def test_stop_ends_the_take_keeps_what_was_spoken_and_frees_the_backend(
    open_page: Any, url: str, backend: FakeBackend
):
    page: Page = open_page(url).page
    wait_until_ready(page)
    backend.gate.clear()
    press_speak(page)
    expect(page.locator(".player")).to_have_attribute("data-live", "true", timeout=WAIT_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#message")).to_contain_text("Stopped")
    expect(page.get_by_role("button", name="Speak", exact=True)).to_be_visible()
    ended = threading.Event()
    backend.when_stream_ends = ended.set
    backend.gate.set()
    assert ended.wait(timeout=20)
    expect(page.locator(".player")).to_have_attribute("data-live", "false", timeout=WAIT_MS)
    assert 0 < sound_duration(page) < EXPECTED_S


@pytest.mark.usefixtures("running_backend")
def test_the_keys_speak_stop_and_pause(open_page: Any, url: str, backend: FakeBackend):
    page: Page = open_page(url).page
    wait_until_ready(page)
    backend.gate.clear()
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.get_by_role("tab", name="System").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".player")).to_have_attribute("data-live", "true", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    expect(page.locator("#message")).to_contain_text("Stopped")
    backend.gate.set()


@pytest.mark.usefixtures("running_backend")
def test_takes_are_listed_compared_and_downloaded_again(open_page: Any, url: str):
    opened = open_page(url)
    page: Page = opened.page
    wait_until_ready(page)
    for number, text in enumerate(["one two three", "four five six seven"], start=1):
        press_speak(page, text)
        expect(page.locator(".take")).to_have_count(number, timeout=WAIT_MS)
    page.get_by_role("button", name="Mark take 1 as A").click()
    page.get_by_role("button", name="Mark take 2 as B").click()
    page.get_by_role("button", name="Hear A").click()
    page.wait_for_function("Math.abs(document.querySelector('.player-sound').duration - 1.2) < .01")
    page.get_by_role("button", name="Hear B").click()
    page.wait_for_function("Math.abs(document.querySelector('.player-sound').duration - 1.6) < .01")
    expect(page.locator(".take.is-current .take-text")).to_have_text("four five six seven")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download take 1 as WAV").click()
    samples, rate = soundfile.read(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert len(samples) / rate == pytest.approx(1.2)
    page.get_by_role("button", name="Remove take 1").click()
    expect(page.locator(".take")).to_have_count(1)
    expect(page.get_by_role("button", name="Hear A")).to_be_disabled()
    # The stand-in speaks 220 Hz: the low rows of the spectrogram are inked, the high ones are not.
    low, high = page.eval_on_selector(
        ".player-spectrogram",
        """canvas => [0.92, 0.1].map(place => Array.from(canvas.getContext("2d")
            .getImageData(canvas.width / 4, canvas.height * place, 1, 1).data.slice(0, 3)))""",
    )
    assert sum(abs(a - b) for a, b in zip(low, high, strict=True)) > 100
    assert opened.errors == []


@pytest.mark.usefixtures("running_backend")
def test_a_voice_is_added_from_a_file_and_speaks(
    open_page: Any, url: str, backend: FakeBackend, tmp_path: Path
):
    file = tmp_path / "ada.wav"
    file.write_bytes(wav_file(sine(4).tobytes(), SAMPLE_RATE))
    opened = open_page(url)
    page: Page = opened.page
    wait_until_ready(page)
    page.get_by_role("tab", name="Voices").click()
    expect(page.locator("#voice-card")).to_contain_text("kit", timeout=WAIT_MS)
    page.locator("#new-voice input[type=file]").set_input_files(file)
    panel = page.locator("#new-voice")
    expect(panel.get_by_text("Drop Audio Here")).to_have_count(0)  # it has been received
    panel.get_by_label("Words of the recording").fill("Hello there.")
    panel.get_by_label("Name", exact=True).fill("Ada")
    panel.get_by_label("Who allowed it").fill("my own voice")
    panel.get_by_role("button", name="Check the recording").click()
    expect(page.locator("#clinic")).to_contain_text("The recording is fine", timeout=WAIT_MS)
    panel.get_by_role("button", name="Add the voice").click()
    expect(page.locator("#clinic")).to_contain_text("Ada is added", timeout=WAIT_MS)
    expect(page.locator("#voice-card")).to_contain_text("my own voice", timeout=WAIT_MS)
    page.get_by_role("button", name="Listen").click()
    page.wait_for_function("document.querySelector('audio.preview')?.duration > 0.4")
    page.get_by_role("tab", name="Speak").click()
    page.get_by_role("combobox", name="Voice", exact=True).click()
    page.get_by_role("option", name=re.compile("Ada")).click()
    press_speak(page)
    expect(page.locator("#message")).to_contain_text("Done", timeout=WAIT_MS)
    assert backend.requests[-1]["voice"] == "Ada"
    assert opened.errors == []


@pytest.mark.usefixtures("running_backend")
def test_a_backend_with_keys_is_asked_for_once_a_key_is_typed(
    open_page: Any, url: str, backend: FakeBackend
):
    backend.api_key = "a-secret-key"
    page: Page = open_page(url).page
    expect(page.locator("#health")).to_contain_text("API key", timeout=WAIT_MS)
    field = page.get_by_label("API key")
    field.fill("a-secret-key")
    field.press("Enter")
    wait_until_ready(page)
    press_speak(page)
    expect(page.locator("#message")).to_contain_text("Done", timeout=WAIT_MS)


@pytest.mark.usefixtures("running_backend")
def test_the_colors_can_be_switched_and_stay_so(open_page: Any, url: str):
    page: Page = open_page(url).page
    wait_until_ready(page)
    switch = page.get_by_role("button", name="Dark colors")
    expect(switch).to_have_attribute("aria-pressed", "false")
    switch.press("Enter")
    expect(switch).to_have_attribute("aria-pressed", "true")
    page.reload()
    wait_until_ready(page)
    expect(switch).to_have_attribute("aria-pressed", "true")
    expect(page.locator("body")).to_have_class(re.compile("dark"))


@pytest.mark.usefixtures("running_backend")
def test_a_marker_goes_to_the_cursor(open_page: Any, url: str):
    page: Page = open_page(url).page
    wait_until_ready(page)
    box = page.get_by_label("Text", exact=True)
    box.fill("Hello there.")
    box.evaluate("box => box.setSelectionRange(5, 5)")
    page.get_by_role("button", name="(laughing)").first.click()
    expect(box).to_have_value("Hello (laughing) there.")
    page.keyboard.type(" oh")
    expect(box).to_have_value("Hello (laughing) oh there.")


@pytest.mark.usefixtures("running_backend")
def test_an_example_of_the_guide_can_be_taken_to_the_text(open_page: Any, url: str):
    page: Page = open_page(url).page
    wait_until_ready(page)
    page.get_by_role("tab", name="Emotions").click()
    page.get_by_role("button", name="Try: (sad) It is over.").click()
    expect(page.get_by_label("Text", exact=True)).to_have_value("(sad) It is over.")


def test_a_missing_backend_is_said_and_its_start_is_noticed(
    open_page: Any, url: str, backend: FakeBackend, backend_port: int
):
    opened = open_page(url)
    page: Page = opened.page
    expect(page.locator("#health")).to_contain_text("does not answer", timeout=WAIT_MS)
    press_speak(page)
    expect(page.get_by_role("alert")).to_contain_text("python scripts/start.py")
    with RunningServer(backend.app(), backend_port):
        wait_until_ready(page)
        expect(page.get_by_role("combobox", name="Voice", exact=True)).to_have_value(
            re.compile("kit")
        )
        press_speak(page)
        expect(page.locator("#message")).to_contain_text("Done", timeout=WAIT_MS)
    assert opened.errors == []


@pytest.mark.usefixtures("running_backend")
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    open_page: Any, url: str, dark: bool, tmp_path: Path
):
    opened = open_page(url, width=390, height=844, dark=dark)
    page: Page = opened.page
    wait_until_ready(page)
    press_speak(page)
    expect(page.locator("#message")).to_contain_text("Done", timeout=WAIT_MS)
    assert opened.overflow_px <= 0
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    lightness = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (max(lightness) < 60) == dark
