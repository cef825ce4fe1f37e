"""A real Chromium against the real pages against a stand-in backend, all on this machine."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.unit.ui.fake_backend import FakeBackend
from tests.unit.ui.server import RunningServer

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--autoplay-policy=user-gesture-required"]  # fmt: skip
WAIT_MS = 20_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.fail("no Chromium: install it, on Debian with apt-get install chromium")
    # Also what only should appear: a busy machine is no reason to fail.
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def backend_port() -> int:
    return free_port()


@pytest.fixture
def running_backend(backend: FakeBackend, backend_port: int) -> Iterator[RunningServer]:
    with RunningServer(backend.app(), backend_port) as server:
        yield server
        backend.gate.set()


@pytest.fixture
def foreign_leftovers() -> Iterator[None]:
    yield
    gc.collect()


class OpenPage:
    """A browser page that remembers what it asked of other machines and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests_elsewhere: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("request", self._note_request)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "blob:", "data:")):
            self.requests_elsewhere.append(request.url)

    @property
    def overflow_px(self) -> int:
        """How much wider the page is than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Any]:
    contexts: list[Any] = []

    def open_at(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> OpenPage:
        scheme = "dark" if dark else "light"
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        opened = OpenPage(context.new_page())
        opened.page.goto(url)
        return opened

    yield open_at
    for context in contexts:
        context.close()


@pytest.fixture
def streamlit_url(backend_port: int) -> Iterator[str]:
    port = free_port()
    env = {"UI_BACKEND_URL": f"http://127.0.0.1:{backend_port}", "UI_STREAMLIT_PORT": str(port)}
    command = [sys.executable, "-m", "ui.streamlit_app"]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.DEVNULL
    )
    try:
        transport = httpx.HTTPTransport(retries=8)  # waits longer and longer between its tries
        with httpx.Client(transport=transport, trust_env=False) as http:
            http.get(f"{url}/_stcore/health").raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
