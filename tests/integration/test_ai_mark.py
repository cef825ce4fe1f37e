"""Speech says in its container that a machine made it, whichever door it left through."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from starlette.testclient import TestClient

from backend.audio.formats import AI_GENERATED_COMMENT, OUTPUT_FORMATS

MARKED = [name for name, output in OUTPUT_FORMATS.items() if output.has_comment]
HELLO = "A machine says this."


def requests(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "stream": ("/tts", {"text": HELLO, "format": name}),
        "file": ("/tts", {"text": HELLO, "format": name, "stream": False}),
        "OpenAI": ("/v1/audio/speech", {"input": HELLO, "model": "tts-1", "voice": "alto",
                                        "response_format": name}),
        "Fish": ("/v1/tts", {"text": HELLO, "format": name}),
    }  # fmt: skip


@pytest.mark.parametrize("door", requests(""))
@pytest.mark.parametrize("name", MARKED)
def test_container_carries_the_mark(client: TestClient, name: str, door: str):
    path, body = requests(name)[door]
    answer = client.post(path, json=body)
    assert answer.status_code == 200
    with av.open(io.BytesIO(answer.content), "r") as container:
        tags = {**container.metadata, **container.streams.audio[0].metadata}
    assert AI_GENERATED_COMMENT in tags.values()


def test_formats_without_a_mark_have_no_place_for_one():
    assert set(OUTPUT_FORMATS) - set(MARKED) == {"pcm", "aac"}
