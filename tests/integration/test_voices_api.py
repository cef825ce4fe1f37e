"""The voice library over HTTP: the whole app with a fake engine."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from backend.service import voice_store
from tests.conftest import AppClient, file_of, tone
from tests.fakes import FAKE_INFO, FakeEngineClient, fake_reference_codes
from tests.integration.voice_calls import RATE, add, audio, error_of, speech


def test_the_models_voices_are_there_from_the_start(client: TestClient):
    voices = client.get("/voices").json()["voices"]
    assert [(voice["name"], voice["is_builtin"]) for voice in voices] == [
        ("alto", True),
        ("basso", True),
    ]
    alto = voices[0]
    assert alto["text"] == "I am alto."
    assert alto["description"] == "high"
    assert alto["is_default"] is True
    assert alto["created_at"] is None
    assert alto["problem"] == ""
    assert client.get(f"/voices/{alto['id']}").json() == alto


def test_an_added_voice_is_listed_and_speaks(client: TestClient, engine: FakeEngineClient):
    answer = add(
        client,
        "Ada Lovelace",
        transcript="Hello, I am Ada.",
        language="EN",
        tags="calm, low,,calm",
        consent="Ada said yes on paper",
        description="a test",
    )
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/voices/Ada%20Lovelace"
    voice = answer.json()["voice"]
    assert voice["name"] == "Ada Lovelace"
    assert voice["language"] == "en"
    assert voice["tags"] == ["calm", "low"]
    assert voice["consent"] == "Ada said yes on paper"
    assert voice["description"] == "a test"
    assert voice["duration_s"] == 4.0
    assert voice["references"] == [
        {"text": "Hello, I am Ada.", "duration_s": 4.0, "has_audio": True}
    ]
    (report,) = answer.json()["clinic"]
    assert report["is_usable"] is True
    assert report["source_sample_rate"] == RATE
    names = [item["name"] for item in client.get("/voices").json()["voices"]]
    assert names == ["Ada Lovelace", "alto", "basso"]

    spoken = client.post("/tts", json={"text": "Hello there.", "voice": "ada LOVELACE"})
    assert spoken.status_code == 200
    assert spoken.headers["X-Voice"] == "Ada%20Lovelace"
    (turn,) = engine.requests[-1].turns
    assert turn.text == "Hello, I am Ada."
    assert np.array_equal(turn.codes, fake_reference_codes(engine.encoded[0]))


def test_a_voice_is_encoded_once(client: TestClient, engine: FakeEngineClient):
    add(client)
    for text in ("One.", "Two.", "Three."):
        assert client.post("/tts", json={"text": text, "voice": "Ada"}).status_code == 200
    assert len(engine.encoded) == 1


def test_voices_survive_a_restart(app_client: AppClient, engine: FakeEngineClient):
    with app_client() as client:
        before = add(client, transcript="Hello.").json()["voice"]
        preview = client.get("/voices/Ada/preview").content
    engine._is_closed = False
    with app_client() as client:
        assert client.get("/voices/Ada").json() == before
        assert client.get("/voices/Ada/preview").content == preview
        assert len(engine.encoded) == 1


def test_a_voice_of_another_codec_is_listed_with_the_reason(
    app_client: AppClient, engine: FakeEngineClient
):
    with app_client() as client:
        add(client, keep_audio="false")
    engine._is_closed = False
    engine._info = replace(FAKE_INFO, revision="fake-2")
    with app_client() as client:
        assert "another codec" in client.get("/voices/Ada").json()["problem"]
        for answer in (
            client.post("/tts", json={"text": "Hello.", "voice": "Ada"}),
            client.get("/voices/Ada/preview"),
            client.get("/voices/Ada/export"),
        ):
            status, kind, message = error_of(answer)
            assert (status, kind) == (409, "voice_unusable")
            assert "add it again from the recording" in message
        assert client.get("/metrics/requests").json()["requests"][0]["status"] == "rejected"
        assert client.delete("/voices/Ada").status_code == 200


def test_several_recordings_become_several_turns(client: TestClient, engine: FakeEngineClient):
    answer = add(client, "Ada", speech(1), speech(2), transcript=["First.", "Second."])
    assert answer.status_code == 201
    assert len(answer.json()["clinic"]) == 2
    client.post("/tts", json={"text": "Hello.", "voice": "Ada"})
    assert [turn.text for turn in engine.requests[-1].turns] == ["First.", "Second."]

    more = client.post(
        "/voices/Ada/references", data={"transcript": "Third."}, files=audio(speech(3))
    )
    assert more.status_code == 201
    texts = [item["text"] for item in more.json()["voice"]["references"]]
    assert texts == ["First.", "Second.", "Third."]
    fewer = client.delete("/voices/Ada/references/1").json()
    assert [item["text"] for item in fewer["references"]] == ["First.", "Third."]
    client.post("/tts", json={"text": "Hello.", "voice": "Ada"})
    assert [turn.text for turn in engine.requests[-1].turns] == ["First.", "Third."]


def test_transcripts_must_match_recordings(client: TestClient):
    status, kind, message = error_of(add(client, "Ada", speech(1), speech(2), transcript="One."))
    assert (status, kind) == (422, "invalid_request")
    assert "1 for 2 recordings" in message
    assert add(client, "Ada", speech(1), speech(2)).status_code == 201


def test_a_voice_gets_another_name_and_notes(client: TestClient, engine: FakeEngineClient):
    before = add(client, tags="old").json()["voice"]
    answer = client.patch("/voices/ada", json={"name": "Zoë 张三", "tags": ["new"]})
    assert answer.status_code == 200
    after = answer.json()
    assert (after["name"], after["tags"], after["id"]) == ("Zoë 张三", ["new"], before["id"])
    assert client.get("/voices/Ada").status_code == 404
    assert client.get("/voices/" + quote("ZOË 张三")).json() == after
    spoken = client.post("/tts", json={"text": "Hello.", "voice": "zoë 张三"})
    assert spoken.headers["X-Voice"] == quote("Zoë 张三")
    assert len(engine.encoded) == 1


def test_a_deleted_voice_is_gone(client: TestClient, tmp_path: Path):
    voice = add(client).json()["voice"]
    answer = client.delete("/voices/ADA")
    assert answer.json() == {"id": voice["id"], "name": "Ada"}
    assert client.get("/voices/Ada").status_code == 404
    status, kind, message = error_of(client.post("/tts", json={"text": "Hi.", "voice": "Ada"}))
    assert (status, kind) == (404, "voice_not_found")
    assert "alto, basso" in message
    assert not list((tmp_path / "data" / "voices" / "blobs").glob("*/*"))
    assert add(client).status_code == 201


def test_the_models_voices_are_read_only(client: TestClient):
    attempts = [
        client.delete("/voices/alto"),
        client.patch("/voices/alto", json={"description": "mine"}),
        client.post("/voices/alto/references", files=audio(speech())),
        client.delete("/voices/alto/references/0"),
    ]
    for answer in attempts:
        status, kind, message = error_of(answer)
        assert (status, kind) == (403, "voice_read_only")
        assert "came with the model" in message
    assert error_of(add(client, "ALTO"))[:2] == (409, "voice_exists")
    add(client)
    assert error_of(client.patch("/voices/Ada", json={"name": "Basso"}))[0] == 409


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "../etc/passwd", "a/b", "a\\b", ".", "..", ".hidden", "x" * 65, "a\nb", "a\0b"),
        *("<script>", 'a"b', "a:b", "a|b", "a*?", "upload", "None", "\u202eabc", "...", "!?", "🎉"),
    ],
)
def test_names_that_cannot_be(client: TestClient, name: str):
    answer = add(client, name)
    assert answer.status_code in (400, 422)
    assert "name" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["Zoë", "张三", "Юлия", "O'Brien", "Dr. No", "voice_2-b (calm)", "x" * 64, "check", "import"],
)
def test_names_that_can_be(client: TestClient, name: str):
    assert add(client, name).json()["voice"]["name"] == name
    assert client.get("/voices/" + quote(name)).json()["name"] == name
    exported = client.get(f"/voices/{quote(name)}/export")
    assert exported.status_code == 200
    assert exported.headers["Content-Disposition"].isascii()
    assert client.delete("/voices/" + quote(name)).status_code == 200


BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "language is no code": ({"language": "english please"}, "language"),
    "tag is too long": ({"tags": "x" * 33}, "tags"),
    "too many tags": ({"tags": ",".join(map(str, range(17)))}, "tags"),
    "consent is too long": ({"consent": "x" * 1001}, "consent"),
    "transcript is too long": ({"transcript": "x" * 10_001}, "transcript"),
    "unknown field": ({"colour": "red"}, "colour"),
    "keep_audio is neither": ({"keep_audio": "maybe"}, "keep_audio"),
    "name twice": ({"name": ["a", "b"]}, "name"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_bad_fields_are_named(client: TestClient, engine: FakeEngineClient, case: str):
    fields, word = BAD_FIELDS[case]
    answer = client.post("/voices", data={"name": "Ada", **fields}, files=audio(speech()))
    assert answer.status_code in (400, 422)
    assert word in answer.json()["error"]["message"]
    assert client.get("/voices/Ada").status_code == 404


BAD_AUDIO: dict[str, tuple[bytes, str]] = {
    "not audio": (b"This is no audio at all.\n" * 100, "not"),
    "silent": (file_of(np.zeros(32_000, np.float32)), "silent"),
    "too short": (file_of(tone(0.5)), "too short"),
    "too long": (file_of(tone(91.0, rate_hz=8_000), rate_hz=8_000), "91 s"),
    "overdriven": (file_of(np.sign(tone(3.0))), "overdriven"),
}


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_recordings_that_cannot_be_used_are_refused(client: TestClient, case: str):
    content, words = BAD_AUDIO[case]
    status, kind, message = error_of(add(client, "Ada", content))
    assert (status, kind) == (400, "audio_too_long" if case == "too long" else "invalid_audio")
    assert words in message


def test_a_voice_needs_a_recording(client: TestClient):
    answer = client.post("/voices", data={"name": "Ada"})
    assert error_of(answer)[:2] == (422, "invalid_request")
    assert client.post("/voices", json={"name": "Ada"}).status_code == 415


def test_more_recordings_than_a_voice_has_are_refused(client: TestClient):
    answer = add(client, "Ada", *[speech(seed) for seed in range(9)])
    assert error_of(answer)[:2] == (409, "voice_limit")


def test_recordings_that_fill_the_prompt_are_refused(client: TestClient):
    long = [file_of(tone(45.0, 200.0 + seed, 8_000), rate_hz=8_000) for seed in range(2)]
    status, kind, message = error_of(add(client, "Ada", *long))
    assert (status, kind) == (400, "prompt_too_long")
    assert "90 s together" in message


def test_no_more_voices_than_allowed(app_client: AppClient):
    with app_client(max_voices=1) as client:
        assert add(client, "one").status_code == 201
        assert error_of(add(client, "two"))[:2] == (409, "voice_limit")
        client.delete("/voices/one")
        assert add(client, "two").status_code == 201


def test_disk_work_is_not_done_on_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    threads: set[str] = set()
    write = voice_store.BlobStore.write

    def spy(self: voice_store.BlobStore, content: bytes) -> str:
        threads.add(threading.current_thread().name)
        return write(self, content)

    monkeypatch.setattr(voice_store.BlobStore, "write", spy)
    add(client)
    assert threads
    assert all(name.startswith("cpu") for name in threads)


def test_voices_wait_for_the_engine(app_client: AppClient, engine: FakeEngineClient):
    engine.may_load.clear()
    with app_client() as client:
        for answer in (
            client.get("/voices"),
            add(client),
            client.delete("/voices/Ada"),
            client.get("/voices/Ada/export"),
            client.post("/voices/check", files=audio(speech())),
        ):
            assert error_of(answer)[:2] == (503, "engine_unavailable")
        engine.may_load.set()
