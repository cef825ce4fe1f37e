"""Everything around speaking: voices, markers, health, metrics, caches, documentation."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from backend.api.streaming import SPEECH_HEADERS
from tests.conftest import AppClient, file_of, tone, write_voice
from tests.fakes import FakeEngineClient

HELLO = {"text": "Hello there.", "seed": 5}


def test_root_points_to_the_documentation(client: TestClient):
    answer = client.get("/").json()
    assert answer["docs"] == "/docs"
    assert "POST /tts" in answer["endpoints"]
    assert client.get("/docs").status_code == 200


def test_voices_are_listed(client: TestClient):
    alto, basso = client.get("/voices").json()["voices"]
    expected = {
        "name": "alto",
        "description": "high",
        "language": "en",
        "text": "I am alto.",
        "duration_s": 0.16,
        "is_default": True,
    }
    assert {key: alto[key] for key in expected} == expected
    assert (basso["name"], basso["duration_s"], basso["is_default"]) == ("basso", 0.2, False)


def test_markers_are_listed_in_groups(client: TestClient):
    answer = client.get("/emotions").json()
    assert answer["known_by_model"] is None
    assert answer["count"] == 66
    assert [group["name"] for group in answer["groups"]] == [
        "emotions",
        "advanced_emotions",
        "tones",
        "effects",
    ]
    first = answer["groups"][0]["markers"][0]
    assert first["marker"] == "(angry)"
    assert first["example"].startswith("(angry) ")


def test_markers_the_pocket_voice_does_not_know_are_said_to_be_left_out(
    app_client: AppClient, engine: FakeEngineClient
):
    engine.may_load.clear()
    with app_client(model="pocket") as client:
        answer = client.get("/emotions").json()
    markers = [marker for group in answer["groups"] for marker in group["markers"]]
    known = {marker["marker"] for marker in markers if marker["known_by_model"]}
    assert "(whispering)" in known
    assert len(known) == 8
    assert "left out" in answer["note"]


def test_health_tells_what_runs(client: TestClient):
    answer = client.get("/health").json()
    assert answer["status"] == "ready"
    assert (answer["model"], answer["device"], answer["precision"]) == ("fake", "cpu", "fp32")
    assert answer["queue"] == {"running": 0, "waiting": 0, "max_running": 4, "max_waiting": 64}
    assert answer["uptime_s"] >= 0
    assert answer["memory_bytes"] is None
    assert client.get("/health/ready").status_code == 200


def test_health_tells_why_the_engine_failed(app_client: AppClient, engine: FakeEngineClient):
    engine.start_failure = "layers.3.weight is missing"
    with app_client() as client:
        health = client.get("/health")
        ready = client.get("/health/ready")
        speech = client.post("/tts", json=HELLO)
    assert (health.status_code, ready.status_code, speech.status_code) == (200, 503, 503)
    assert health.json()["status"] == "failed"
    assert "layers.3.weight is missing" in health.json()["detail"]
    assert "layers.3.weight is missing" in speech.json()["error"]["message"]


def test_health_tells_which_voice_file_is_broken(app_client: AppClient, model_dir: Path):
    write_voice(model_dir, "broken", codes=[])
    with app_client() as client:
        answer = client.get("/health").json()
    assert answer["status"] == "failed"
    assert "broken.json" in answer["detail"]


def test_metrics_come_as_json_and_as_text(client: TestClient):
    client.post("/tts", json=HELLO)
    client.post("/tts", json=HELLO)
    answer = client.get("/metrics").json()
    assert answer["requests"]["by_status"]["ok"] == 2
    assert answer["caches"]["semantic"]["hits"] == 1
    assert answer["latency"]["ttfa_s"]["count"] == 2
    assert answer["engine"]["state"] == "ready"
    for text in (
        client.get("/metrics", headers={"Accept": "text/plain"}),
        client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}),
        client.get("/metrics/prometheus"),
    ):
        assert text.headers["Content-Type"].startswith("text/plain")
        assert 'tts_requests_total{status="ok"} 2.0' in text.text
        assert 'tts_cache_hits_total{cache="semantic"} 1.0' in text.text


def test_whole_files_do_not_count_as_time_to_first_audio(client: TestClient):
    client.post("/tts", json={**HELLO, "stream": False})
    assert client.get("/metrics").json()["latency"]["ttfa_s"]["count"] == 0


def test_newest_requests_come_first(client: TestClient):
    for name in ("first", "second", "third"):
        client.post("/tts", json=HELLO, headers={"X-Request-Id": name})
    answer = client.get("/metrics/requests", params={"limit": 2}).json()["requests"]
    assert [figures["request_id"] for figures in answer] == ["third", "second"]


def test_caches_are_emptied_together_or_one_at_a_time(client: TestClient):
    def fill() -> None:
        files = {"speaker_file": ("me.wav", file_of(tone(2.0)))}
        assert client.post("/tts", data=HELLO, files=files).status_code == 200

    fill()
    everything = client.post("/cache/clear").json()["cleared"]
    assert everything == {"voice_codes": 1, "semantic": 1, "prefix_kv": 0}
    fill()
    semantic = client.post("/cache/clear", json={"cache": "semantic"}).json()
    assert semantic == {"cleared": {"semantic": 1}}
    rest = client.post("/cache/clear", json={"cache": "all"}).json()
    assert rest == {"cleared": {"voice_codes": 1, "semantic": 0, "prefix_kv": 0}}


def test_pages_of_allowed_origins_may_read_the_figures(client: TestClient):
    allowed = client.post("/tts", json=HELLO, headers={"Origin": "http://localhost:7860"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://localhost:7860"
    exposed = allowed.headers["Access-Control-Expose-Headers"].split(", ")
    assert exposed == [*SPEECH_HEADERS, "Retry-After", "X-Predicted-TTFA-Ms"]
    sent = {name for name in allowed.headers if name.lower().startswith("x-")}
    assert sent - {"x-accel-buffering"} <= {name.lower() for name in SPEECH_HEADERS}
    refused = client.get("/health", headers={"Origin": "http://evil.example"})
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_errors_can_be_read_by_pages_too(client: TestClient):
    origin = {"Origin": "http://localhost:7860"}
    answer = client.post("/tts", json={"text": ""}, headers=origin)
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:7860"


def test_documentation_states_bodies_and_answers(client: TestClient):
    document = client.get("/openapi.json").json()
    speak = document["paths"]["/tts"]["post"]
    body = speak["requestBody"]["content"]
    form = body["multipart/form-data"]["schema"]["properties"]
    plain = body["application/json"]["schema"]["properties"]
    assert set(form) - set(plain) == {"speaker_file"}
    assert form["speaker_file"]["format"] == "binary"
    assert all(field.get("description") for field in form.values())
    assert "audio/wav" in speak["responses"]["200"]["content"]
    assert "audio/mpeg" in speak["responses"]["200"]["content"]
    assert {"400", "404", "413", "415", "422", "429", "503"} <= set(speak["responses"])
    refusal = speak["responses"]["422"]["content"]["application/json"]["schema"]
    assert refusal["$ref"].endswith("/ErrorResponse")


def test_every_documented_header_can_be_read_by_pages(client: TestClient):
    document = client.get("/openapi.json").json()
    headers = document["paths"]["/tts"]["post"]["responses"]["200"]["headers"]
    assert set(headers) == set(SPEECH_HEADERS)
