"""Eight listeners at once on a CPU: each hears what it hears alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from backend.app import create_app
from backend.core.settings import Settings
from tests.conftest import serve, until_open

TEXTS = ("One.", "Two birds.", "Three.", "Four more.", "Five.", "Six?", "Seven, then.", "Eight!")
VOICES = ("sally", "angus", "kit", "ross")


def ask(idx: int) -> dict[str, object]:
    return {
        "text": TEXTS[idx], "voice": VOICES[idx % len(VOICES)], "seed": idx, "format": "pcm",
        "max_new_tokens": 10 + idx,
    }  # fmt: skip


@pytest.mark.timeout(300)
async def test_eight_listeners_hear_what_each_hears_alone(tmp_path: Path):
    settings = Settings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        device="cpu",
        cpu_threads=1,
        data_dir=tmp_path,
        max_slots=8,
        cache_limit=0,
        engine_isolation="thread",
    )
    app = create_app(settings)
    async with (
        serve(app) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=120) as http,
    ):

        async def hear(idx: int) -> NDArray[np.int32]:
            answer = await http.post("/tts", json=ask(idx))
            assert answer.status_code == 200
            return np.frombuffer(answer.content, dtype="<i2").astype(np.int32)

        await until_open(app)
        together = await asyncio.gather(*(hear(idx) for idx in range(len(TEXTS))))
        for idx, heard in enumerate(together):
            alone = await hear(idx)
            assert heard.size == alone.size > 0
            # the same codes; the codec's chunks are cut elsewhere, which rounds the last bit
            assert np.abs(heard - alone).max() <= 1
        counted = (await http.get("/metrics")).json()["requests"]["by_status"]
        assert counted["ok"] == 2 * len(TEXTS)
