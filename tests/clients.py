"""Official client libraries, pointed at a server of the tests and at nothing else."""

from __future__ import annotations

import io

import httpx
import httpx2
import numpy as np
import soundfile
from fish_audio_sdk import AsyncWebSocketSession, Session, WebSocketSession
from fishaudio import AsyncFishAudio, FishAudio
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI

from backend.audio.decode import decode_audio
from backend.audio.pcm import from_s16le_bytes

KEY = "any-key-will-do"
TIMEOUT_S = 60.0


def openai_client(address: str) -> OpenAI:
    return OpenAI(
        base_url=f"{address}/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx2.Client(trust_env=False, timeout=TIMEOUT_S),
    )


def async_openai_client(address: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{address}/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT_S),
    )


def fish_client(address: str) -> FishAudio:
    client = httpx.Client(base_url=address, trust_env=False, timeout=TIMEOUT_S)
    return FishAudio(api_key=KEY, base_url=address, httpx_client=client)


def async_fish_client(address: str) -> AsyncFishAudio:
    client = httpx.AsyncClient(base_url=address, trust_env=False, timeout=TIMEOUT_S)
    return AsyncFishAudio(api_key=KEY, base_url=address, httpx_client=client)


def old_fish_client(address: str) -> Session:
    return Session(KEY, base_url=address)


def old_fish_socket(address: str) -> WebSocketSession:
    return WebSocketSession(KEY, base_url=address)


def old_async_fish_socket(address: str) -> AsyncWebSocketSession:
    return AsyncWebSocketSession(KEY, base_url=address)


def sound_of(content: bytes, format_name: str, pcm_rate_hz: int) -> tuple[NDArray[np.float32], int]:
    """Decode a file and give its samples and rate.

    Args:
        content: Of the file.
        format_name: As it was asked for.
        pcm_rate_hz: What ``pcm`` is known to have.
    """
    if format_name == "pcm":
        return from_s16le_bytes(content), pcm_rate_hz
    if format_name == "wav":
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32")
        return np.asarray(samples, np.float32), rate_hz
    recording = decode_audio(
        content, target_sample_rate=48_000, max_duration_s=600, min_duration_s=0.01
    )
    return recording.samples, recording.sample_rate


def duration_s(content: bytes, format_name: str, pcm_rate_hz: int) -> float:
    """Decode a file and give how long it sounds."""
    samples, rate_hz = sound_of(content, format_name, pcm_rate_hz)
    return samples.size / rate_hz
