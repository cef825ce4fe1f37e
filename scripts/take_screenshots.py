"""Take the pictures of the pages for the README.

    python scripts/take_screenshots.py --backend http://127.0.0.1:8000 --out backend/docs/images

Needs requirements-dev.txt and Chromium, and a backend that runs. The pages are started here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from scripts.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parent.parent
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "The quick brown fox jumps over the lazy dog. Then it sits down, looks around, "
    "and does it all over again.",
)
NUM_STREAMLIT_TAKES = 3
CHART_MS = 12_000
"""The charts need a few looks at the backend before they show more than a dot."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SPEAK_LIMIT_MS = 120_000
PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


@contextmanager
def running_page(module: str, port_key: str, backend: str) -> Generator[str, None, None]:
    """Serve one page while the block runs; gives its address."""
    port = free_port()
    env = {**os.environ, "UI_BACKEND_URL": backend, port_key: str(port)}
    process = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=env)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as http:
            http.get(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=20)


def picture_gradio(
    browser: Browser, url: str, file: Path, size: ViewportSize, *, dark: bool = False
) -> None:
    """Speak twice on the Gradio page and take its picture in the middle of the last take."""
    scheme = "dark" if dark else "light"
    page = browser.new_page(viewport=size, device_scale_factor=2, color_scheme=scheme)
    page.goto(url)
    expect(page.locator("#health")).to_contain_text("Ready", timeout=SPEAK_LIMIT_MS)
    for number, text in enumerate(TEXTS, start=1):
        page.get_by_label("Text", exact=True).fill(text)
        page.get_by_role("button", name="Speak", exact=True).click()
        expect(page.locator(".take")).to_have_count(number, timeout=SPEAK_LIMIT_MS)
    # In the middle of the take, whatever the machine's speed was.
    middle = "input => { input.value = input.max * 0.45; input.dispatchEvent(new Event('input')) }"
    page.get_by_label("Position in seconds").evaluate(middle)
    page.keyboard.press("Escape")  # pauses it
    finish(page, file)


def picture_streamlit(browser: Browser, url: str, file: Path) -> None:
    """Speak on the Streamlit page, so that its charts show lines, and take its picture."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, device_scale_factor=2)
    page.goto(url)
    speak = page.get_by_role("button", name=re.compile("^Speak"))
    expect(speak).to_be_enabled(timeout=SPEAK_LIMIT_MS)
    for number in range(1, NUM_STREAMLIT_TAKES + 1):
        page.get_by_label("Text", exact=True).fill(f"{TEXTS[0]} {'Again. ' * number}")
        speak.click()
        expect(page.get_by_text(f"{number} kept")).to_be_visible(timeout=SPEAK_LIMIT_MS)
    page.get_by_role("tab", name="Dashboard").click()
    expect(page.locator("canvas, svg.marks").first).to_be_visible(timeout=SPEAK_LIMIT_MS)
    page.wait_for_timeout(CHART_MS)
    finish(page, file)


def finish(page: Page, file: Path) -> None:
    """Let the pointer and the animations rest, then take the picture."""
    page.mouse.move(0, 0)
    page.screenshot(path=file, full_page=True, animations="disabled")
    page.close()
    print(f"{file} ({file.stat().st_size // 1024} KiB)")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    parser = argparse.ArgumentParser(description="Take the pictures of the pages.")
    parser.add_argument("--backend", default="http://127.0.0.1:8000", help="its address")
    parser.add_argument("--out", type=Path, default=ROOT / "backend/docs/images", help="folder")
    options = parser.parse_args(arguments)
    chromium = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if chromium is None:
        print("error: no Chromium here; install it, then run this again", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        with running_page("ui.gradio_app", "UI_GRADIO_PORT", options.backend) as url:
            picture_gradio(browser, url, options.out / "gradio.png", DESKTOP)
            picture_gradio(browser, url, options.out / "gradio-dark.png", DESKTOP, dark=True)
            picture_gradio(browser, url, options.out / "gradio-phone.png", PHONE)
        with running_page("ui.streamlit_app", "UI_STREAMLIT_PORT", options.backend) as url:
            picture_streamlit(browser, url, options.out / "streamlit.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
