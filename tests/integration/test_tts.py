"""``POST /tts`` in process: fields in, headers and files out."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from starlette.testclient import TestClient

from backend.api.schemas import TtsRequest
from backend.audio.decode import decode_audio
from backend.audio.effects import TARGET_LUFS, integrated_lufs
from backend.audio.formats import OUTPUT_FORMATS
from tests.conftest import AppClient, file_of, tone
from tests.fakes import FAKE_INFO, FakeEngineClient

HELLO = {"text": "Hello there.", "seed": 5}


def test_json_and_form_give_the_same_speech(client: TestClient):
    by_json = client.post("/tts", json=HELLO)
    by_form = client.post("/tts", data={"text": "Hello there.", "seed": "5"})
    by_multipart = client.post("/tts", data=HELLO, files={"speaker_file": ("", b"")})
    assert by_json.status_code == 200
    assert by_json.content == by_form.content == by_multipart.content


def test_browser_form_without_a_chosen_file_speaks(client: TestClient):
    parts = [
        b'Content-Disposition: form-data; name="text"\r\n\r\nHello there.',
        b'Content-Disposition: form-data; name="speaker_file"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n",
    ]
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    answer = client.post(
        "/tts", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200
    assert answer.headers["X-Voice"] == "alto"


def test_stream_has_its_facts_in_the_headers(client: TestClient):
    answer = client.post("/tts", json=HELLO, headers={"X-Request-Id": "my-id"})
    assert answer.headers["Content-Type"] == "audio/wav"
    assert "Content-Length" not in answer.headers
    facts = {name: answer.headers[f"X-{name}"] for name in ("Request-Id", "Seed", "Sample-Rate")}
    assert facts == {"Request-Id": "my-id", "Seed": "5", "Sample-Rate": "16000"}
    assert (answer.headers["X-Voice"], answer.headers["X-Cache"]) == ("alto", "miss")
    assert float(answer.headers["X-TTFA-Ms"]) > 0
    assert "X-Warning" not in answer.headers


def test_whole_file_has_all_figures_in_the_headers(client: TestClient):
    answer = client.post("/tts", json={**HELLO, "stream": False})
    headers = answer.headers
    assert int(headers["Content-Length"]) == len(answer.content)
    assert float(headers["X-Latency-Ms"]) > 0
    assert float(headers["X-RTF"]) > 0
    assert float(headers["X-Queue-Ms"]) == 1.0
    assert float(headers["X-Audio-Duration-S"]) == pytest.approx(24 / FAKE_INFO.frame_rate)
    assert headers["X-Num-Frames"] == "24"
    assert headers["X-Finish-Reason"] == "stop"
    assert soundfile.info(io.BytesIO(answer.content)).frames == 24 * FAKE_INFO.frame_length


def test_figures_of_a_stream_are_kept_under_its_id(client: TestClient):
    answer = client.post("/tts", json=HELLO)
    figures = client.get(f"/metrics/requests/{answer.headers['X-Request-Id']}").json()
    assert figures["status"] == "ok"
    assert figures["audio_duration_s"] == pytest.approx(24 / FAKE_INFO.frame_rate)
    assert figures["num_frames"] == 24
    assert figures["latency_ms"] >= figures["ttfa_ms"] > 0
    assert figures["rtf"] > 0
    assert (figures["seed"], figures["voice"], figures["cache"]) == (5, "alto", "miss")
    assert figures["stages_ms"]["semantic"] == pytest.approx(3.0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_every_format_comes_with_its_media_type(client: TestClient, name: str, stream: bool):
    answer = client.post("/tts", json={**HELLO, "format": name, "stream": stream})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == OUTPUT_FORMATS[name].media_type
    rate_hz = OUTPUT_FORMATS[name].output_rate_hz(FAKE_INFO.sample_rate)
    assert answer.headers["X-Sample-Rate"] == str(rate_hz)
    assert answer.headers["Content-Disposition"].endswith(f'.{OUTPUT_FORMATS[name].extension}"')
    assert len(answer.content) > 500


def test_streamed_and_whole_pcm_are_the_same_samples(client: TestClient):
    streamed = client.post("/tts", json={**HELLO, "format": "pcm"})
    client.post("/cache/clear")
    whole = client.post("/tts", json={**HELLO, "format": "pcm", "stream": False})
    assert whole.headers["X-Cache"] == "miss"
    assert streamed.content == whole.content


def test_second_request_is_a_hit_with_the_same_bytes(client: TestClient):
    first = client.post("/tts", json=HELLO)
    second = client.post("/tts", json=HELLO)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit")
    assert first.content == second.content


def test_same_seed_gives_the_same_bytes_without_any_cache(
    app_client: AppClient, engine: FakeEngineClient
):
    with app_client(cache_limit=0) as client:
        answers = [client.post("/tts", json=HELLO) for _ in range(2)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "miss"]
    assert answers[0].content == answers[1].content
    assert all(request.codes is None for request in engine.requests)


def test_drawn_seed_repeats_the_take(client: TestClient):
    first = client.post("/tts", json={"text": "Hello there."})
    again = client.post("/tts", json={"text": "Hello there.", "seed": int(first.headers["X-Seed"])})
    assert first.content == again.content


OPTIONS: dict[str, tuple[object, str]] = {
    "temperature": (0.3, "sampling"),
    "top_p": (0.4, "sampling"),
    "top_k": (11, "sampling"),
    "repetition_penalty": (1.7, "sampling"),
    "max_new_tokens": (13, "sampling"),
    "min_new_tokens": (12, "sampling"),
    "seed": (99, "sampling"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_sampling_option_reaches_the_engine(
    client: TestClient, engine: FakeEngineClient, name: str
):
    value = OPTIONS[name][0]
    client.post("/tts", json={"text": "Hi.", name: value})
    assert getattr(engine.requests[-1].sampling, name) == value
    client.post("/tts", data={"text": "Hi.", name: str(value)})
    assert getattr(engine.requests[-1].sampling, name) == value


def test_every_field_is_accounted_for_by_a_test():
    # A new field must be added here, and with it a test that it does something.
    tested_elsewhere = {"text", "voice", "prompt_text", "format", "stream"}
    tested_elsewhere |= {
        "speed",
        "volume",
        "normalize",
        "trim_silence",
        "sample_rate",
        "language",
    }  # below
    assert set(TtsRequest.model_fields) == set(OPTIONS) | tested_elsewhere


def samples_of(client: TestClient, **fields: object) -> NDArray[np.int16]:
    """Speak as PCM, by JSON and by form, and see that both are the same."""
    by_json = client.post("/tts", json={**HELLO, "format": "pcm", **fields})
    assert by_json.status_code == 200, by_json.text
    strings = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in fields.items()
    }
    by_form = client.post("/tts", data={**HELLO, "format": "pcm", **strings})
    assert by_form.content == by_json.content
    return np.frombuffer(by_json.content, "<i2")


@pytest.mark.parametrize("stream", [True, False])
def test_speed_scales_the_duration_exactly(client: TestClient, stream: bool):
    plain = samples_of(client, stream=stream)
    for speed in (0.5, 0.8, 1.5, 2.0):
        assert samples_of(client, stream=stream, speed=speed).size == round(plain.size / speed)
    whole = client.post("/tts", json={**HELLO, "speed": 2, "stream": False})
    seconds = plain.size / FAKE_INFO.sample_rate / 2
    assert float(whole.headers["X-Audio-Duration-S"]) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("stream", [True, False])
def test_volume_is_in_decibels(client: TestClient, stream: bool):
    plain = samples_of(client, stream=stream).astype(float)
    quiet = samples_of(client, stream=stream, volume=-12)
    np.testing.assert_allclose(quiet, plain * 10 ** (-12 / 20), atol=1)
    loud = samples_of(client, stream=stream, volume=20)
    assert 29_000 < np.abs(loud).max() < 29_500  # -1 dBFS


@pytest.mark.parametrize("stream", [True, False])
def test_normalize_brings_the_loudness_of_the_standard(client: TestClient, stream: bool):
    text = " ".join(["The quick brown fox jumps over the lazy dog."] * 4)
    sound = samples_of(client, stream=stream, normalize=True, text=text, volume=-6)
    lufs = integrated_lufs((sound / 32767).astype(np.float32), FAKE_INFO.sample_rate)
    assert lufs == pytest.approx(TARGET_LUFS - 6, abs=1.0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_sample_rate_is_that_of_the_file(client: TestClient, name: str, stream: bool):
    asked = {**HELLO, "format": name, "sample_rate": 24_000, "stream": stream}
    answer = client.post("/tts", json=asked)
    assert answer.headers["X-Sample-Rate"] == "24000"
    if name == "pcm":
        rate_hz, num_samples = 24_000, len(answer.content) // 2
    else:
        recording = decode_audio(
            answer.content, target_sample_rate=24_000, max_duration_s=60, min_duration_s=0.1
        )
        rate_hz, num_samples = recording.source.sample_rate, recording.samples.size
        assert rate_hz == (48_000 if name == "opus" else 24_000)  # Opus always decodes at 48 kHz
        rate_hz = recording.sample_rate
    seconds = 24 / FAKE_INFO.frame_rate
    assert num_samples / rate_hz == pytest.approx(seconds, abs=0.12)


def test_effects_that_are_off_leave_the_bytes_alone(client: TestClient):
    off = {"speed": 1, "volume": 0, "normalize": False, "sample_rate": FAKE_INFO.sample_rate}
    for stream in (True, False):
        plain = client.post("/tts", json={**HELLO, "stream": stream})
        assert client.post("/tts", json={**HELLO, "stream": stream, **off}).content == plain.content


def test_language_guides_where_the_text_is_cut(client: TestClient, engine: FakeEngineClient):
    text = f"{'Yo, ' * 30}y dije que no. {'Si, ' * 40}al final."
    first: dict[str, str] = {}
    for language in ("en", "es"):
        client.post("/tts", json={"text": text, "language": language})
        first[language] = engine.requests[0].text
        engine.requests.clear()
    assert first["es"].endswith("y dije que no.")  # "no." is short for number in English only
    assert not first["en"].endswith("no.")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"language": "tlh"}, None, "Spanish"),
        ({"language": "en-US"}, None, "English"),
        ({"speed": 2.5}, "speed", "2"),
        ({"volume": -21}, "volume", "-20"),
        ({"sample_rate": 96_000}, "sample_rate", "48000"),
        ({"sample_rate": 44_100, "format": "opus"}, "format", "24000, 48000"),
        ({"speed": "fast"}, "speed", "number"),
        ({"loudness": 3}, "loudness", "not a known field"),
    ],
)
def test_option_that_cannot_be_had_is_refused_by_name(
    client: TestClient, fields: dict[str, object], param: str | None, words: str
):
    answer = client.post("/tts", json={**HELLO, **fields})
    assert answer.status_code in (400, 422)
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_stream_flag_reaches_the_engine(client: TestClient, engine: FakeEngineClient, stream: bool):
    client.post("/tts", data={"text": "Hi.", "stream": str(stream).lower()})
    assert engine.requests[-1].stream is stream


def test_named_voice_reaches_the_engine(client: TestClient, engine: FakeEngineClient):
    answer = client.post("/tts", json={**HELLO, "voice": "basso"})
    assert answer.headers["X-Voice"] == "basso"
    assert [turn.text for turn in engine.requests[-1].turns] == ["I am basso."]


def test_recording_and_transcript_reach_the_engine(client: TestClient, engine: FakeEngineClient):
    stereo = np.stack([tone(2.0, rate_hz=44_100)] * 2, axis=1)
    for expected in ("miss", "hit"):
        answer = client.post(
            "/tts",
            data={**HELLO, "prompt_text": " What I  said. "},
            files={"speaker_file": ("me.flac", file_of(stereo, "FLAC", 44_100), "audio/flac")},
        )
        assert answer.status_code == 200
        assert answer.headers["X-Voice"] == "upload"
        assert answer.headers["X-Voice-Cache"] == expected
        assert "X-Warning" not in answer.headers
    assert [turn.text for turn in engine.requests[0].turns] == ["What I said."]
    assert abs(engine.encoded[0].size - 32_000) <= 1
    assert len(engine.encoded) == 1


def test_recording_without_transcript_works_with_a_warning(client: TestClient):
    files = {"speaker_file": ("me.wav", file_of(tone(2.0)))}
    answer = client.post("/tts", data=HELLO, files=files)
    assert answer.status_code == 200
    assert "prompt_text" in answer.headers["X-Warning"]


def test_nulls_and_empty_form_fields_mean_the_default(client: TestClient):
    names = [name for name in TtsRequest.model_fields if name not in ("text", "seed")]
    plain = client.post("/tts", json=HELLO)
    nulls = client.post("/tts", json={**HELLO, **dict.fromkeys(names)})
    empty = client.post("/tts", data={**HELLO, **dict.fromkeys(names, "")})
    assert nulls.status_code == empty.status_code == 200
    assert plain.content == nulls.content == empty.content


def test_long_text_is_spoken_in_segments(client: TestClient, engine: FakeEngineClient):
    text = " ".join(["The quick brown fox jumps over the lazy dog."] * 20)
    answer = client.post("/tts", json={"text": text, "format": "pcm"})
    assert int(answer.headers["X-Segments"]) == len(engine.requests) > 1
    assert len(answer.content) == 2 * FAKE_INFO.frame_length * sum(
        2 * len(request.text) for request in engine.requests
    )


def test_full_queue_is_429_with_retry_after(client: TestClient, engine: FakeEngineClient):
    engine.num_refusals = 1
    answer = client.post("/tts", json=HELLO)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["error"]["type"] == "queue_full"


def test_engine_failure_before_the_first_sound_is_a_status(
    client: TestClient, engine: FakeEngineClient
):
    engine.fail_at_frame = 0
    answer = client.post("/tts", json=HELLO)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "generation_failed"
    engine.fail_at_frame = None
    assert client.post("/tts", json=HELLO).status_code == 200


def test_too_long_reference_for_the_model_is_400(app_client: AppClient):
    with app_client() as client:
        files = {"speaker_file": ("me.wav", file_of(tone(85.0, rate_hz=8000), rate_hz=8000))}
        answer = client.post("/tts", data=HELLO, files=files)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "prompt_too_long"
