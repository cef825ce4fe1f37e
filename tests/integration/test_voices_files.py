"""The clinic, previews, and voices as files, over HTTP."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from tests.conftest import file_of, tone
from tests.fakes import FakeEngineClient, fake_reference_codes, fake_samples
from tests.integration.voice_calls import RATE, add, audio, error_of, speech


def test_check_reports_without_keeping(client: TestClient, engine: FakeEngineClient):
    report = client.post("/voices/check", files=audio(speech())).json()
    assert report["is_usable"] is True
    assert report["duration_s"] == 4.0
    assert report["snr_db"] > 25
    assert engine.encoded == []
    assert len(client.get("/voices").json()["voices"]) == 2


def test_check_shows_the_best_part_of_what_is_too_long(client: TestClient):
    long = np.concatenate([tone(60.0, rate_hz=8_000) * (np.arange(480_000) % 4_000 < 2_500)] * 2)
    report = client.post("/voices/check", files=audio(file_of(long, rate_hz=8_000))).json()
    assert report["is_usable"] is False
    assert report["findings"][0]["severity"] == "refuse"
    assert report["findings"][0]["code"] == "too_long"
    window = report["best_window"]
    assert window["end_s"] - window["start_s"] == pytest.approx(10.0)


def test_check_grades_a_poor_recording(client: TestClient):
    rng = np.random.default_rng(5)
    noisy = 0.003 * (tone(2.5) * (np.arange(40_000) % 8_000 < 5_000)) + rng.normal(0, 5e-4, 40_000)
    report = client.post("/voices/check", files=audio(file_of(noisy.astype(np.float32)))).json()
    severities = {finding["code"]: finding["severity"] for finding in report["findings"]}
    assert severities["quiet"] == "warn"
    assert severities["short"] == "warn"
    assert severities["noisy"] == "warn"


def test_check_refuses_what_is_not_audio(client: TestClient):
    assert error_of(client.post("/voices/check", files=audio(b"nothing at all")))[0] == 400
    assert client.post("/voices/check", data={"name": "x"}).status_code == 422


def test_a_preview_is_the_decoded_reference(client: TestClient, engine: FakeEngineClient):
    add(client)
    answer = client.get("/voices/Ada/preview")
    assert answer.headers["Content-Type"] == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    assert rate == RATE
    expected = fake_samples(fake_reference_codes(engine.encoded[0]))
    assert np.allclose(samples, expected, atol=1e-4)
    assert client.get("/voices/alto/preview").status_code == 200
    assert client.get("/voices/nobody/preview").status_code == 404


def test_a_preview_is_bounded(client: TestClient):
    add(client, "Ada", speech(duration_s=30.0))
    sound = client.get("/voices/Ada/preview").content
    assert soundfile.info(io.BytesIO(sound)).duration == pytest.approx(15.0, abs=0.05)


def test_an_exported_voice_comes_back(client: TestClient, engine: FakeEngineClient):
    before = add(client, transcript="Hello.", tags="calm", consent="yes").json()["voice"]
    exported = client.get("/voices/Ada/export")
    assert exported.headers["Content-Type"] == "application/vnd.fishvoice+zip"
    assert 'filename="Ada.fishvoice"' in exported.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert sorted(archive.namelist()) == ["codes/0.npy", "manifest.json"]
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["name"] == "Ada"
    assert manifest["consent"] == "yes"
    client.delete("/voices/Ada")
    answer = client.post("/voices/import", files={"file": ("x.fishvoice", exported.content)})
    assert answer.status_code == 201
    after = answer.json()
    for key in ("name", "tags", "consent", "text", "duration_s"):
        assert after[key] == before[key]
    assert after["references"][0]["has_audio"] is False
    client.post("/tts", json={"text": "Hi.", "voice": "Ada"})
    codes = engine.requests[-1].turns[0].codes
    assert np.array_equal(codes, fake_reference_codes(engine.encoded[0]))
    assert len(engine.encoded) == 1


def test_an_import_can_take_another_name(client: TestClient):
    add(client)
    file = {"file": ("x.fishvoice", client.get("/voices/Ada/export?include_audio=true").content)}
    assert error_of(client.post("/voices/import", files=file))[:2] == (409, "voice_exists")
    answer = client.post("/voices/import", files=file, data={"name": "Eve"})
    assert answer.json()["name"] == "Eve"
    assert answer.json()["references"][0]["has_audio"] is True


def test_a_models_voice_can_be_taken_along(client: TestClient):
    file = {"file": ("x.fishvoice", client.get("/voices/alto/export").content)}
    answer = client.post("/voices/import", files=file, data={"name": "my alto"})
    assert answer.status_code == 201
    assert answer.json()["is_builtin"] is False


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing", b"PK\x05\x06" + bytes(18)])
def test_files_that_are_no_voices_are_refused(client: TestClient, content: bytes):
    answer = client.post("/voices/import", files={"file": ("x.fishvoice", content)})
    assert answer.status_code in (400, 422)
