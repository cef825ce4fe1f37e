"""``POST /tts/batch`` and ``GET /models`` in process."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import AppClient
from tests.fakes import FAKE_INFO, FakeEngineClient

ITEMS = [
    {"text": "Welcome.", "name": "welcome", "seed": 1},
    {"text": "...", "name": "silence"},
    {"text": "Who?", "voice": "nobody"},
    {"text": "Good bye.", "seed": 2, "format": "mp3", "voice": "basso", "speed": 2},
]


def opened(answer: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    return files, json.loads(files.pop("manifest.json"))


def test_items_that_fail_are_reported_and_lose_no_others(client: TestClient):
    files, manifest = opened(client.post("/tts/batch", json={"items": ITEMS}))
    assert list(files) == ["000-welcome.wav", "003-speech.mp3"]
    assert (manifest["num_items"], manifest["num_failed"]) == (4, 2)
    assert [item["file"] for item in manifest["items"]] == [
        "000-welcome.wav",
        None,
        None,
        "003-speech.mp3",
    ]
    errors = [item["error"] and item["error"]["type"] for item in manifest["items"]]
    assert errors == [None, "invalid_text", "voice_not_found", None]
    assert "alto" in manifest["items"][2]["error"]["message"]
    assert (manifest["items"][3]["voice"], manifest["items"][3]["seed"]) == ("basso", 2)


def test_a_file_of_a_batch_is_that_of_a_single_request(client: TestClient):
    files, manifest = opened(client.post("/tts/batch", json={"items": ITEMS[:1]}))
    single = client.post("/tts", json={"text": "Welcome.", "seed": 1, "stream": False})
    assert files["000-welcome.wav"] == single.content
    expected = 2 * len("Welcome.") / FAKE_INFO.frame_rate
    assert manifest["items"][0]["audio_duration_s"] == pytest.approx(expected)


def test_a_batch_waits_for_a_full_queue_instead_of_losing_items(
    client: TestClient, engine: FakeEngineClient
):
    engine.num_refusals = 3
    items = [{"text": f"Number {n}."} for n in range(5)]
    files, manifest = opened(client.post("/tts/batch", json={"items": items}))
    assert len(files) == 5
    assert manifest["num_failed"] == 0


@pytest.mark.parametrize(
    ("items", "status", "words"),
    [
        ([], 422, "items"),
        ([{"text": "Hi.", "speed": 9}], 422, "items.speed"),
        ([{"text": "Hi.", "name": "../up"}], 422, "name"),
        ([{"text": "Hi.", "stream": True}], 422, "stream"),
        ([{"text": "Hi."}] * 4, 400, "MAX_BATCH_ITEMS"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_before_anything_is_spoken(
    app_client: AppClient,
    engine: FakeEngineClient,
    items: list[dict[str, Any]],
    status: int,
    words: str,
):
    with app_client(max_batch_items=3) as client:
        answer = client.post("/tts/batch", json={"items": items})
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert engine.requests == []


def test_models_lists_the_loaded_one_and_what_else_is_installed(
    app_client: AppClient, model_dir: Path, tmp_path: Path
):
    installed = tmp_path / "models"
    for name in ("openaudio-s1-mini", "mine", "no-model"):
        (installed / name).mkdir(parents=True)
        if name != "no-model":
            (installed / name / "config.json").write_text("{}", encoding="utf-8")
    with app_client(models_dir=installed) as client:
        models = client.get("/models").json()["models"]
    by_id = {model["id"]: model for model in models}
    assert set(by_id) >= {str(model_dir), "openaudio-s1-mini", str(installed / "mine")}
    assert models[0] == {
        "id": str(model_dir),
        "loaded": True,
        "license": "unknown here; see the model's own files",
        "device": "cpu",
        "precision": "fp32",
        "sample_rate": FAKE_INFO.sample_rate,
        "voices": 2,
    }
    other = by_id["openaudio-s1-mini"]
    assert (other["loaded"], other["device"]) == (False, None)
    assert "NC" in other["license"]


def test_no_model_is_loaded_while_the_engine_starts(
    app_client: AppClient, engine: FakeEngineClient
):
    engine.may_load.clear()
    with app_client() as client:
        assert client.get("/models").json()["models"][0]["loaded"] is False
        assert client.post("/tts/batch", json={"items": ITEMS}).status_code == 503
        assert client.post("/jobs", json={"text": "Hi."}).status_code == 503
        engine.may_load.set()
