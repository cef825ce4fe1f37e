"""The pocket voice, judged by others: a recognizer picks its words, measures tell voices apart."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.audio.analysis import describe
from backend.core.settings import read_settings
from tests.hearing import SentencePicker

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Please close the window before you leave the house.",
    "My brother bought a new car last week.",
    "The train to the city leaves at nine.",
    "She opened the letter and began to laugh.",
    "We walked along the river until the sun went down.",
    "The doctor told him to drink more water.",
    "There are seven days in a week.",
    "A small bird was singing in the garden.",
    "He forgot to bring his winter coat.",
    "The children are playing in the yard.",
    "I would like a cup of coffee with milk.",
    "The teacher wrote a question on the board.",
    "It will be cold and windy tomorrow morning.",
    "They painted the kitchen yellow and white.",
    "The old bridge was closed for three months.",
    "Her uncle works on a farm near the sea.",
    "Turn left at the corner and go straight.",
    "The music was too loud for the old man.",
    "Nobody knows where the money has gone.",
]
SPOKEN = range(0, 20, 2)
SHARE_RIGHT = 0.8
LOW_VOICE, HIGH_VOICE = "ross", "sally"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = read_settings(None, device="cpu", cpu_threads=1, engine_isolation="thread")
    with TestClient(create_app(settings)) as client:
        while client.get("/health/ready").status_code != 200:
            assert client.get("/health").json()["status"] != "failed"
        yield client


def speak(client: TestClient, text: str, **form: object) -> tuple[np.ndarray, int]:
    data: dict[str, Any] = {"text": text, "seed": 1, **form}
    files = {"speaker_file": data.pop("speaker_file")} if "speaker_file" in data else None
    answer = client.post("/tts", data=data, files=files)
    assert answer.status_code == 200, answer.text
    return soundfile.read(io.BytesIO(answer.content), dtype="float32")


def voice_names(client: TestClient) -> list[str]:
    return [voice["name"] for voice in client.get("/voices").json()["voices"]]


def median_f0_hz(client: TestClient, **form: object) -> float:
    f0_hz = describe(*speak(client, SENTENCES[5], **form)).median_f0_hz
    assert f0_hz is not None
    return f0_hz


def test_a_recognizer_picks_the_spoken_sentence_out_of_twenty(client: TestClient):
    picker = SentencePicker(SENTENCES)
    voices = voice_names(client)
    right = [
        picker.pick(*speak(client, SENTENCES[idx], voice=voices[idx % len(voices)])) == idx
        for idx in SPOKEN
    ]
    assert sum(right) >= SHARE_RIGHT * len(right)


def test_the_recognizer_does_not_pick_the_sentence_from_noise():
    picker = SentencePicker(SENTENCES)
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    picks = [picker.pick(noise[start:], 16_000) for start in range(0, 16_000, 4_000)]
    assert sum(pick == 0 for pick in picks) < len(picks)


def test_speech_has_a_sensible_level_and_length(client: TestClient):
    samples, sample_rate = speak(client, SENTENCES[0])
    measures = describe(samples, sample_rate)
    assert 1.5 < measures.duration_s < 6.0
    assert measures.rms_dbfs is not None
    assert -35.0 < measures.rms_dbfs < -10.0
    assert measures.clipping_ratio < 0.001


def test_a_low_and_a_high_voice_differ_in_pitch_as_they_should(client: TestClient):
    assert median_f0_hz(client, voice=LOW_VOICE) * 1.2 < median_f0_hz(client, voice=HIGH_VOICE)


def test_an_uploaded_reference_changes_the_voice(client: TestClient):
    text = SENTENCES[10]
    pitches = []
    for voice in (LOW_VOICE, HIGH_VOICE):
        samples, sample_rate = speak(client, text, voice=voice)
        file = io.BytesIO()
        soundfile.write(file, samples, sample_rate, format="WAV")
        upload = ("reference.wav", file.getvalue(), "audio/wav")
        pitches.append(median_f0_hz(client, speaker_file=upload, prompt_text=text))
    assert pitches[0] * 1.1 < pitches[1]
