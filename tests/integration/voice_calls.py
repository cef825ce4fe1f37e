"""Calls of the voice library's API that several tests make."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.testclient import TestClient

from tests.conftest import file_of

RATE = 16_000
Upload = tuple[str, tuple[str, bytes, str]]


def speech(seed: int = 1, duration_s: float = 4.0) -> bytes:
    """A recording that the clinic likes: bursts in little noise. Each seed is another one."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * (120 + seed) * k * time_s + k * k) / k for k in range(1, 50))
    sound = 0.1 * voice * (time_s % 0.6 < 0.4) + rng.normal(0, 5e-4, time_s.size)
    return file_of(np.clip(sound, -0.98, 0.98).astype(np.float32))


def audio(*contents: bytes) -> list[Upload]:
    return [("audio", ("me.wav", content, "audio/wav")) for content in contents]


def add(client: TestClient, name: str = "Ada", *contents: bytes, **fields: Any) -> Any:
    files = audio(*(contents or (speech(),)))
    return client.post("/voices", data={"name": name, **fields}, files=files)


def error_of(response: Any) -> tuple[int, str, str]:
    body = response.json()["error"]
    return response.status_code, body["type"], body["message"]
