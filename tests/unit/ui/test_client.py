from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.unit.ui.fake_backend import SAMPLE_RATE, FakeBackend, sine
from tests.unit.ui.server import RunningServer, closed_port
from ui.client import FORMATS, BackendClient, BackendError, Recording, SpeechForm

FORM = SpeechForm(text="one two three")
SAMPLES = sine(3 * 0.4)


def test_what_the_backend_offers_arrives_as_values(client: BackendClient):
    health = client.health()
    assert health.is_ready
    assert (health.model, health.device) == ("pocket", "cpu")
    assert [voice.name for voice in client.voices()] == ["kit", "sally"]
    emotions = client.emotions()
    assert [group.title for group in emotions.groups] == ["Emotions", "Effects"]
    assert emotions.quick_markers() == ["(excited)", "(sad)", "(laughing)"]
    assert "tts_requests_total" in client.metrics_text()


def test_a_backend_that_still_loads_is_healthy_but_not_ready(
    backend: FakeBackend, client: BackendClient
):
    backend.status = "starting"
    assert not client.health().is_ready


def test_clearing_the_cache_reaches_the_backend(backend: FakeBackend, client: BackendClient):
    client.clear_cache()
    client.clear_cache("semantic")
    assert backend.caches_cleared == ["all", "semantic"]


def test_counters_arrive_as_values(client: BackendClient):
    client.speak(FORM)
    metrics = client.metrics()
    assert metrics.requests.total == 1
    assert metrics.spread("ttfa_s").p50 == 0.4
    assert metrics.spread("unheard of").p50 is None
    assert metrics.caches["semantic"].hit_rate == 0.25
    assert [one.request_id for one in client.recent_requests()] == ["req-1"]


def test_a_backend_with_keys_lets_in_who_has_one(backend: FakeBackend, client: BackendClient):
    backend.api_key = "a-secret-key"
    with pytest.raises(BackendError, match="API key") as caught:
        client.voices()
    assert caught.value.asks_for_key
    assert client.with_key(" a-secret-key ").voices()
    assert client.with_key("  ") is client


def test_a_key_that_no_header_can_carry_is_said(client: BackendClient):
    with pytest.raises(BackendError, match="API key"):
        client.with_key("schlüssel").voices()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_file_comes_in_the_format_asked_for(client: BackendClient, kind: str):
    result = client.speak(replace(FORM, format=kind))
    samples, rate = soundfile.read(io.BytesIO(result.audio))
    assert len(samples) / rate == pytest.approx(1.2, abs=0.1)
    assert result.facts.latency_ms == 412.5
    assert result.facts.audio_duration_s == pytest.approx(1.2)


def test_every_field_of_the_form_is_sent(backend: FakeBackend, client: BackendClient):
    form = SpeechForm(
        text="hello",
        recording=Recording("me.wav", b"RIFF"),
        transcript="my words",
        temperature=0.5,
        top_p=0.9,
        top_k=30,
        repetition_penalty=1.2,
        max_new_tokens=256,
        seed=0,
        language="en",
        speed=1.25,
        volume=-3.0,
        sample_rate=24_000,
        normalize=True,
        trim_silence=True,
        format="flac",
    )
    client.speak(form)
    assert backend.requests[-1] == {
        "text": "hello",
        "speaker_file": ("me.wav", b"RIFF"),
        "prompt_text": "my words",
        "temperature": "0.5",
        "top_p": "0.9",
        "top_k": "30",
        "repetition_penalty": "1.2",
        "language": "en",
        "speed": "1.25",
        "volume": "-3.0",
        "sample_rate": "24000",
        "normalize": "true",
        "trim_silence": "true",
        "max_new_tokens": "256",
        "seed": "0",
        "format": "flac",
        "stream": "false",
    }


def test_what_the_visitor_left_open_is_left_to_the_backend(
    backend: FakeBackend, client: BackendClient
):
    client.speak(replace(FORM, voice="sally", transcript="of a recording that is not there"))
    sent = {"text": FORM.text, "voice": "sally", "format": "wav", "stream": "false"}
    assert backend.requests[-1] == sent


def test_a_recording_takes_the_place_of_the_voice(backend: FakeBackend, client: BackendClient):
    client.speak(replace(FORM, voice="sally", recording=Recording("me.wav", b"RIFF")))
    assert "voice" not in backend.requests[-1]


def test_a_stream_gives_the_very_samples_in_whole_samples(client: BackendClient):
    with client.speak_stream(FORM) as stream:
        pieces = list(stream)
    assert len(pieces) > 2
    assert all(len(piece) % 2 == 0 for piece in pieces)
    assert b"".join(pieces) == SAMPLES.tobytes()
    assert (stream.sample_rate, stream.facts.voice, stream.facts.seed) == (SAMPLE_RATE, "kit", 42)
    assert stream.facts.ttfa_ms == 84.2


def test_the_first_piece_arrives_while_the_rest_is_not_made_yet(
    backend: FakeBackend, client: BackendClient
):
    backend.gate.clear()
    with client.speak_stream(FORM) as stream:
        first = next(iter(stream))
        assert 0 < len(first) < len(SAMPLES.tobytes())
        assert backend.streams_ended == 0
        backend.gate.set()


def test_figures_known_only_at_the_end_complete_the_facts(client: BackendClient):
    with client.speak_stream(FORM) as stream:
        list(stream)
    facts = client.late_facts(stream.facts)
    assert (facts.latency_ms, facts.rtf, facts.cache) == (412.5, 0.31, "miss")
    assert facts.audio_duration_s == pytest.approx(1.2)
    assert facts.seed == stream.facts.seed


def test_the_wav_file_of_a_stream_holds_its_samples(client: BackendClient):
    with client.speak_stream(FORM) as stream:
        pcm = b"".join(stream)
    samples, rate = soundfile.read(
        io.BytesIO(client.whole_file(FORM, stream.facts, pcm)), dtype="int16"
    )
    assert rate == SAMPLE_RATE
    assert np.array_equal(samples, SAMPLES)


def test_other_files_of_a_stream_are_the_backends_with_the_seed_of_the_take(
    backend: FakeBackend, client: BackendClient
):
    form = replace(FORM, format="mp3")
    with client.speak_stream(form) as stream:
        pcm = b"".join(stream)
    client.whole_file(form, stream.facts, pcm)
    assert backend.requests[-1]["seed"] == "42"
    assert backend.requests[-1]["format"] == "mp3"


def test_nobody_at_the_address_is_said_with_what_to_do():
    url = f"http://127.0.0.1:{closed_port()}"
    with (
        BackendClient(url) as client,
        pytest.raises(BackendError, match=r"start_backend\.bat") as caught,
    ):
        client.health()
    assert url in caught.value.message
    assert caught.value.status is None


def test_a_refusal_carries_the_backends_words_status_and_request(client: BackendClient):
    with pytest.raises(BackendError, match="there is no voice 'nobody'") as caught:
        client.speak(replace(FORM, voice="nobody"))
    assert (caught.value.status, caught.value.request_id) == (404, "req-1")


def test_a_refused_stream_carries_the_backends_words_too(client: BackendClient):
    with (
        pytest.raises(BackendError, match="the text is empty"),
        client.speak_stream(SpeechForm(text=" ")),
    ):
        pass


def test_a_stream_that_breaks_off_is_an_error_after_the_sound_that_came(
    backend: FakeBackend, client: BackendClient, caplog: pytest.LogCaptureFixture
):
    backend.breaks_after = 2
    came: list[bytes] = []
    with pytest.raises(BackendError, match="broke off"), client.speak_stream(FORM) as stream:
        came.extend(stream)
    assert 0 < len(b"".join(came)) < len(SAMPLES.tobytes())


def test_another_server_at_the_address_is_recognized():
    app = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("hello"))])
    with (
        RunningServer(app) as server,
        BackendClient(server.url) as client,
        pytest.raises(BackendError, match="is it the speech server"),
    ):
        client.voices()


def test_an_error_without_the_backends_form_is_still_readable():
    app = Starlette()
    with (
        RunningServer(app) as server,
        BackendClient(server.url) as client,
        pytest.raises(BackendError, match="status 404"),
    ):
        client.voices()
